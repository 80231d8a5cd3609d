"""The oracle has to be able to fail: each of these rules is wrong, and it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autoshard.errors import RuleError, RuleViolationError
from autoshard.rules import check_rule, parse


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def conv(x, w, **options):
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=numbers, **options)


def take(x, i):
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(x, i, numbers, (1, x.shape[1]), mode="clip")


def add_at(x, i, u):
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    return lax.scatter_add(x, i, u, numbers, mode="clip")


WRONG = {
    "argmax is no maximum": (
        lambda x: lax.argmax(x, 1, jnp.int32),
        [f32(4, 6)],
        "([i, j])->([i]) {i=4, j=6} reduction={j:max}",
    ),
    "broadcast into the other dimension": (
        lambda x: lax.broadcast_in_dim(x, (4, 4), (0,)),
        [f32(4)],
        "([i])->([j, i]) {i=4, j=4}",
    ),
    "a border is not local work": (
        conv,
        [f32(2, 8, 4), f32(3, 4, 6)],
        "([i, j, k], [l, k, m])->([i, j, m]) {i=2, j=8, k=4, l=3, m=6} reduction={k:sum} whole={l}",
    ),
    "groups are the major factor": (
        lambda x, w: conv(x, w, feature_group_count=2),
        [f32(2, 8, 4), f32(3, 2, 4)],
        "([i, j, k l], [m, k, l n])->([i, j, l n]) {i=2, j=8, k=2, l=2, m=3, n=2} "
        "reduction={k:sum} whole={j, m}",
    ),
    "a running sum is not parallel": (
        lambda x: lax.cumsum(x, 0),
        [f32(6)],
        "([i])->([i]) {i=6}",
    ),
    "a running sum is not local": (
        lambda x: lax.cumsum(x, 0),
        [f32(6)],
        "([i])->([i]) {i=6} halo={i}",
    ),
    "contracted, not parallel": (
        lax.dot,
        [f32(4, 6), f32(6, 2)],
        "([i, k], [k, j])->([i, j]) {i=4, k=6, j=2}",
    ),
    "products are added": (
        lax.dot,
        [f32(4, 6), f32(6, 2)],
        "([i, k], [k, j])->([i, j]) {i=4, k=6, j=2} reduction={k:max}",
    ),
    "a slice whose place is not known": (
        lambda x, i: lax.dynamic_slice_p.bind(x, i, slice_sizes=(4,)),
        [f32(8), i32()],
        "([i j], [])->([i]) {i=4, j=2} whole={j}",
    ),
    "an update that crosses borders": (
        lax.dynamic_update_slice_p.bind,
        [f32(4, 8), f32(4, 2), i32(), i32()],
        "([i, j k], [i, k], [], [])->([i, j k]) {i=4, j=4, k=2}",
    ),
    "a transform is not local": (
        jnp.fft.fft,
        [jax.ShapeDtypeStruct((8,), jnp.complex64)],
        "([i])->([i]) {i=8} halo={i}",
    ),
    "rows that are not here are zero, not the largest": (
        take,
        [f32(8, 4), i32(6, 1)],
        "([i, j], [k, 1])->([k, j]) {i=8, j=4, k=6} reduction={i:max}",
    ),
    "indices have no order in the table": (
        take,
        [f32(6, 4), i32(6, 1)],
        "([i, j], [k, 1])->([i, j]) {i=6, j=4, k=6} whole={k}",
    ),
    "a maximum is not a sum": (
        lambda x: lax.reduce_max(x, (1,)),
        [f32(4, 6)],
        "([i, j])->([i]) {i=4, j=6} reduction={j:sum}",
    ),
    "a reduced dimension is not kept": (
        lambda x: lax.reduce_sum(x, (1,)),
        [f32(4, 4)],
        "([i, j])->([j]) {i=4, j=4} reduction={i:sum}",
    ),
    "windows that overlap": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3,), (2,), "SAME"),
        [f32(8)],
        "([i j])->([i]) {i=4, j=2} whole={j}",
    ),
    "the major factor leads": (
        lambda x: lax.reshape(x, (4, 6)),
        [f32(24)],
        "([j i])->([i, j]) {i=4, j=6}",
    ),
    "no common digit": (
        lambda x: lax.reshape(x, (4, 6)),
        [f32(6, 4)],
        "([i, j])->([j, i]) {i=6, j=4}",
    ),
    "the operand counts once, so updates are added": (
        add_at,
        [f32(8, 4), i32(6, 1), f32(6, 4)],
        "([i, j], [k, 1], [k, j])->([i, j]) {i=8, j=4, k=6} reduction={k:max}",
    ),
    "updates are not parallel": (
        add_at,
        [f32(8, 4), i32(6, 1), f32(6, 4)],
        "([i, j], [k, 1], [k, j])->([i, j]) {i=8, j=4, k=6}",
    ),
    "a sort is not local": (
        lambda x: lax.sort(x),
        [f32(6)],
        "([i])->([i]) {i=6} halo={i}",
    ),
    "a batch of sorts, the wrong way": (
        lambda x: lax.sort(x, dimension=1),
        [f32(4, 4)],
        "([i, j])->([i, j]) {i=4, j=4} whole={i}",
    ),
    "the permutation is another one": (
        lambda x: lax.transpose(x, (2, 0, 1)),
        [f32(4, 4, 4)],
        "([i, j, k])->([j, k, i]) {i=4, j=4, k=4}",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_are_caught(name: str) -> None:
    function, operands, text = WRONG[name]
    with pytest.raises(RuleViolationError) as error:
        check_rule(function, *operands, rule=parse(text))
    assert error.value.rule == str(parse(text))


@pytest.mark.parametrize("name", WRONG)
def test_registered_rules_pass(name: str) -> None:
    function, operands, _ = WRONG[name]
    check_rule(function, *operands)


def test_message(golden) -> None:
    shown = []
    for name in ("contracted, not parallel", "a sort is not local", "no common digit"):
        function, operands, text = WRONG[name]
        with pytest.raises(RuleViolationError) as error:
            check_rule(function, *operands, rule=parse(text))
        shown.append(str(error.value))
    golden("rules_violations", "\n\n".join(shown))


def test_a_function_with_several_ops_takes_no_rule() -> None:
    with pytest.raises(RuleError, match="speaks of one op"):
        check_rule(lambda x: x + x * x, f32(4), rule=parse("([i])->([i]) {i=4}"))


def test_params_belong_to_primitives() -> None:
    with pytest.raises(RuleError, match=r"functools.partial\(function, axes="):
        check_rule(jnp.sum, f32(4), axes=(0,))


def test_only_nan_proves_nothing() -> None:
    with pytest.raises(RuleError, match="only NaN"):
        check_rule(lax.log, np.full(4, -1.0, np.float32))


def test_given_arrays_are_used() -> None:
    (proof,) = check_rule(lax.log, np.full(4, 2.0, np.float32))
    assert proof.method == "shards" and proof.shards == 2
