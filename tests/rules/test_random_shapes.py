"""The oracle over random shapes and params, family by family.

Arrays are tiny and sizes few, so that most ops are compiled once. The slow runs draw many more.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from autoshard.rules import check_rule

Draw = Callable[[st.SearchStrategy[Any]], Any]
Case = tuple[Callable[..., Any], tuple[Any, ...]]

SIZES = st.sampled_from([1, 2, 3, 4])


def f32(shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)


def i32(shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), jnp.int32)


def shapes(low: int = 1, high: int = 3) -> st.SearchStrategy[list[int]]:
    return st.lists(SIZES, min_size=low, max_size=high)


@st.composite
def pointwise(draw) -> Case:
    shape = draw(shapes())
    kinds = draw(st.lists(st.sampled_from(["full", "ones", "scalar"]), min_size=2, max_size=2))
    kinds[draw(st.integers(0, 1))] = "full"
    operands = [
        f32(() if kind == "scalar" else [s if kind == "full" else 1 for s in shape])
        for kind in kinds
    ]
    return draw(st.sampled_from([lax.add_p, lax.mul_p, lax.max_p, lax.lt_p])).bind, tuple(operands)


@st.composite
def reshape(draw) -> Case:
    primes = draw(st.lists(st.sampled_from([2, 2, 3]), max_size=5))

    def grouped() -> list[int]:
        order, sizes = draw(st.permutations(primes)), [1]
        for prime in order:
            if draw(st.booleans()):
                sizes.append(prime)
            else:
                sizes[-1] *= prime
        return sizes

    before, after = grouped(), grouped()
    return (lambda x: lax.reshape(x, after)), (f32(before),)


@st.composite
def broadcast(draw) -> Case:
    target = draw(shapes())
    kept = sorted(draw(st.sets(st.sampled_from(range(len(target))))))
    source = [target[d] if draw(st.booleans()) else 1 for d in kept]
    return (lambda x: lax.broadcast_in_dim(x, target, kept)), (f32(source),)


@st.composite
def movement(draw) -> Case:
    shape = draw(shapes())
    d = draw(st.integers(0, len(shape) - 1))
    kind = draw(st.sampled_from(["transpose", "rev", "tile", "stack", "unstack", "squeeze"]))
    if kind == "transpose":
        order = draw(st.permutations(range(len(shape))))
        return (lambda x: lax.transpose(x, order)), (f32(shape),)
    if kind == "rev":
        return (lambda x: lax.rev(x, [d])), (f32(shape),)
    if kind == "tile":
        reps = draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        return (lambda x: lax.tile(x, reps)), (f32(shape),)
    if kind == "stack":
        return (lambda x, y: lax.stack([x, y], d)), (f32(shape), f32(shape))
    if kind == "unstack":
        return (lambda x: lax.unstack(x, d)), (f32(shape),)
    shape[d] = 1
    return (lambda x: lax.squeeze(x, [d])), (f32(shape),)


@st.composite
def borders(draw) -> Case:
    """Slices, pads, splits and concatenations."""
    rows, columns = draw(SIZES), draw(st.sampled_from([2, 4, 6, 8]))
    kind = draw(st.sampled_from(["slice", "pad", "split", "concatenate"]))
    if kind == "slice":
        start = draw(st.integers(0, columns - 1))
        limit = draw(st.integers(start + 1, columns))
        stride = draw(st.integers(1, 2))
        cut = (0, start), (rows, limit), (1, stride)
        return (lambda x: lax.slice(x, *cut)), (f32((rows, columns)),)
    if kind == "pad":
        low, high = draw(st.integers(-1, 3)), draw(st.integers(0, 3))
        config = (0, 0, 0), (low, high, draw(st.integers(0, 2)))
        return (lambda x: lax.pad(x, jnp.float32(0), config)), (f32((rows, columns)),)
    parts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    if kind == "split":
        return (lambda x: lax.split(x, parts, axis=1)), (f32((rows, sum(parts))),)
    return (lambda *xs: lax.concatenate(xs, 1)), tuple(f32((rows, n)) for n in parts)


@st.composite
def dynamic(draw) -> Case:
    shape = draw(shapes())
    part = [draw(st.sampled_from([1, n, max(n - 1, 1)])) for n in shape]
    starts = [i32(())] * len(shape)
    if draw(st.booleans()):
        return (lambda x, *s: lax.dynamic_slice(x, s, part)), (f32(shape), *starts)
    return (lambda x, u, *s: lax.dynamic_update_slice(x, u, s)), (f32(shape), f32(part), *starts)


@st.composite
def dot(draw) -> Case:
    batch, contract = draw(shapes(0, 1)), draw(shapes(0, 2))
    free_l, free_r = draw(shapes(0, 1)), draw(shapes(0, 1))

    def operand(free: list[int]) -> tuple[list[int], list[int], list[int]]:
        sizes = [*batch, *contract, *free]
        order = draw(st.permutations(range(len(sizes))))
        place = [order.index(d) for d in range(len(sizes))]
        return [sizes[d] for d in order], place[: len(batch)], place[len(batch) :][: len(contract)]

    (lhs, batch_l, sum_l), (rhs, batch_r, sum_r) = operand(free_l), operand(free_r)
    numbers = (sum_l, sum_r), (batch_l, batch_r)
    return (lambda x, y: lax.dot_general(x, y, numbers)), (f32(lhs), f32(rhs))


@st.composite
def reduction(draw) -> Case:
    shape = draw(shapes())
    axes = sorted(draw(st.sets(st.sampled_from(range(len(shape))))))
    kind = draw(st.sampled_from(["sum", "max", "min", "prod", "argmax", "cumsum", "sort", "top_k"]))
    d = draw(st.integers(0, len(shape) - 1))
    if kind == "argmax":
        return (lambda x: lax.argmax(x, d, jnp.int32)), (f32(shape),)
    if kind == "cumsum":
        return (lambda x: lax.cumsum(x, d)), (f32(shape),)
    if kind == "sort":
        return (lambda x, y: lax.sort((x, y), dimension=d)), (f32(shape), f32(shape))
    if kind == "top_k":
        return (lambda x: lax.top_k(x, 1)), (f32(shape),)
    return (lambda x: getattr(lax, f"reduce_{kind}")(x, axes)), (f32(shape),)


@st.composite
def indexed(draw) -> Case:
    """A gather or scatter: some dimensions batched, some indexed, the others windows."""
    shape = [draw(st.sampled_from([2, 3, 4])) for _ in range(draw(st.integers(1, 3)))]
    roles = [draw(st.sampled_from(["batching", "indexed", "kept", "window"])) for _ in shape]
    roles[draw(st.integers(0, len(shape) - 1))] = "indexed"
    # The batching dimensions lead the indices, then others, then the index vector.
    batching = [d for d, role in enumerate(roles) if role == "batching"]
    targets = [d for d, role in enumerate(roles) if role in ("indexed", "kept")]
    collapsed = [d for d, role in enumerate(roles) if role == "indexed"]
    windows = [d for d, role in enumerate(roles) if role in ("kept", "window")]
    lead = [shape[d] for d in batching] + draw(shapes(0, 1))
    # Where the windows stand in the result or the updates.
    rank = len(lead) + len(windows)
    offsets = sorted(draw(st.permutations(range(rank)))[: len(windows)])
    mode = draw(st.sampled_from([lax.GatherScatterMode.CLIP, lax.GatherScatterMode.FILL_OR_DROP]))
    sizes = [1 if role != "window" and role != "kept" else shape[d] for d, role in enumerate(roles)]
    for d in windows:
        if roles[d] == "kept":
            sizes[d] = draw(st.sampled_from(sorted({1, shape[d], max(shape[d] - 1, 1)})))
    indices = i32((*lead, len(targets)))
    if draw(st.booleans()):
        numbers = lax.GatherDimensionNumbers(
            offset_dims=tuple(offsets),
            collapsed_slice_dims=tuple(collapsed),
            start_index_map=tuple(targets),
            operand_batching_dims=tuple(batching),
            start_indices_batching_dims=tuple(range(len(batching))),
        )
        return (lambda x, i: lax.gather(x, i, numbers, sizes, mode=mode)), (f32(shape), indices)
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=tuple(offsets),
        inserted_window_dims=tuple(collapsed),
        scatter_dims_to_operand_dims=tuple(targets),
        operand_batching_dims=tuple(batching),
        scatter_indices_batching_dims=tuple(range(len(batching))),
    )
    inner = iter(sizes[d] for d in windows)
    outer = iter(lead)
    updates = [next(inner) if d in offsets else next(outer) for d in range(rank)]
    scatter = draw(st.sampled_from([lax.scatter_add, lax.scatter_max, lax.scatter_min]))
    return (
        (lambda x, i, u: scatter(x, i, u, numbers, mode=mode)),
        (f32(shape), indices, f32(updates)),
    )


@st.composite
def convolution(draw) -> Case:
    layouts = draw(
        st.sampled_from([("NWC", "WIO", "NWC"), ("NCW", "OIW", "NCW"), ("CNW", "IWO", "NWC")])
    )
    features, batches = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (4, 1), (1, 2)]))
    inputs = features * draw(st.sampled_from([1, 2]))
    outputs = features * batches * draw(st.sampled_from([1, 2, 3]))
    width, window = draw(st.sampled_from([4, 6, 8])), draw(st.integers(1, 4))
    options: dict[str, Any] = {
        "window_strides": (draw(st.integers(1, 3)),),
        "padding": ((draw(st.integers(0, 2)), draw(st.integers(0, 2))),),
        "lhs_dilation": (draw(st.integers(1, 2)),),
        "rhs_dilation": (draw(st.integers(1, 2)),),
    }
    named = {"N": 2 * batches, "C": inputs, "W": width, "I": inputs // features, "O": outputs}
    lhs = [named[c] for c in layouts[0]]
    rhs = [window if c == "W" else named[c] for c in layouts[1]]
    return (
        lambda x, w: lax.conv_general_dilated(
            x,
            w,
            dimension_numbers=layouts,
            feature_group_count=features,
            batch_group_count=batches,
            **options,
        )
    ), (f32(lhs), f32(rhs))


@st.composite
def windows(draw) -> Case:
    rows, columns = draw(SIZES), draw(st.sampled_from([4, 6, 8]))
    size, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = (0, 0), draw(st.sampled_from([(0, 0), (1, 1), (0, 1)]))

    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, size), (1, stride), padding)

    if draw(st.booleans()):
        return pool, (f32((rows, columns)),)
    out = jax.eval_shape(pool, f32((rows, columns)))
    return (lambda x, g: jax.vjp(pool, x)[1](g)), (f32((rows, columns)), f32(out.shape))


FAMILIES = {
    "borders": borders(),
    "broadcast": broadcast(),
    "convolution": convolution(),
    "dot": dot(),
    "dynamic": dynamic(),
    "indexed": indexed(),
    "movement": movement(),
    "pointwise": pointwise(),
    "reduction": reduction(),
    "reshape": reshape(),
    "windows": windows(),
}


def run(family: str, examples: int, prove_all) -> None:
    ops: list[int] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(case=FAMILIES[family], seed=st.integers(0, 2**16))
    def proven(case: Case, seed: int) -> None:
        function, avals = case
        if any(math.prod(a.shape) == 0 for a in jax.tree.leaves(jax.eval_shape(function, *avals))):
            return  # windows that do not fit: nothing comes out
        ops.append(len(check_rule(function, *avals, seed=seed)))

    proven()
    assert sum(ops) > len(ops) / 2, f"{family} draws ops with nothing to shard"
    prove_all([None] * sum(ops), len(ops))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_shapes(family: str, prove_all) -> None:
    run(family, 5, prove_all)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_random_shapes(family: str, prove_all) -> None:
    run(family, 150, prove_all)
