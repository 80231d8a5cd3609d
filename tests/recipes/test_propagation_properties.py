"""Properties of propagation, for random hints and pins."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from autoshard.errors import PinError
from autoshard.plan import MeshShape, Spec
from autoshard.recipes import plan_by_recipe
from autoshard.recipes.propagate import DimHint, Hint, Hints, propagate
from autoshard.rules import RuledProgram, with_rules
from autoshard.tracing import trace

MESH = MeshShape(("a", "b", "c"), (2, 2, 2))


def mlp(params, x, y):
    def loss(p):
        hidden = jax.nn.gelu(x @ p["in"] + p["bias"][None])
        return jnp.mean((hidden @ p["out"] - y) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), value


def attention(params, x, y):
    def loss(p):
        q, k, v = (jnp.einsum("bsd,dhe->bshe", x, p[name]) for name in "qkv")
        scores = jnp.einsum("bshe,bthe->bhst", q, k) / 2.0
        mixed = jnp.einsum("bhst,bthe->bshe", jax.nn.softmax(scores), v)
        return jnp.mean((jnp.einsum("bshe,hed->bsd", mixed, p["o"]) - y) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), value


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) / 2


PROGRAMS = {
    "mlp": (
        mlp,
        (
            {"in": normal(8, 16), "bias": normal(16), "out": normal(16, 8)},
            normal(8, 8),
            normal(8, 8),
        ),
    ),
    "attention": (
        attention,
        (
            {**{n: normal(8, 4, 4) for n in "qkv"}, "o": normal(4, 4, 8)},
            normal(8, 8, 8),
            normal(8, 8, 8),
        ),
    ),
}


@functools.cache
def ruled(name: str) -> RuledProgram:
    function, args = PROGRAMS[name]
    return with_rules(trace(function, args))


@st.composite
def dims(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """Axes for an array, each at most once, that divide it."""
    axes = list(draw(st.permutations(MESH.names)))
    found = []
    for size in shape:
        here = ()
        for _ in range(draw(st.integers(0, 2))):
            if axes and size % MESH.size_of((*here, axes[-1])) == 0:
                here += (axes.pop(),)
        found.append(here)
    return tuple(found)


@st.composite
def hints(draw: st.DrawFn, name: str) -> Hints:
    program = ruled(name).program
    chosen = draw(
        st.lists(
            st.sampled_from([v.id for v in program.values if v.shape]),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    values = {}
    for value in chosen:
        axes = draw(dims(program.values[value].shape))
        unused = sorted(set(MESH.names) - {a for dim in axes for a in dim})
        values[value] = Hint(
            dims=tuple(
                DimHint(axes=a, open=draw(st.booleans()), priority=draw(st.integers(0, 2)))
                for a in axes
            ),
            replicated=frozenset(draw(st.sets(st.sampled_from(unused)))) if unused else frozenset(),
        )
    return Hints(values=values)


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_hints_hold_and_labels_are_legal(name, data):
    given_hints = data.draw(hints(name))
    found = propagate(ruled(name), MESH, given_hints)
    program = ruled(name).program
    for value, hint in given_hints.values.items():
        spec = found.value(value)
        for dim, axes in zip(hint.dims, spec.dims, strict=True):
            assert axes[: len(dim.axes)] == dim.axes
            assert dim.open or axes == dim.axes
        assert not hint.replicated & set(spec.axes)
    for value in program.values:
        assert found.value(value.id).divides(value.shape, MESH)
    labelling = found.labelling()  # checks every label
    for leaf in program.arguments:
        value = program.argument_value(leaf).id
        assert labelling.value_spec(value) == found.value(value)


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_deterministic_and_idempotent(name, data):
    given_hints = data.draw(hints(name))
    first = propagate(ruled(name), MESH, given_hints)
    turned = Hints(values=dict(reversed(given_hints.values.items())))
    again = propagate(with_rules(trace(*PROGRAMS[name])), MESH, turned)
    program = ruled(name).program
    assert first.labels == again.labels
    assert [first.value(v.id) for v in program.values] == [
        again.value(v.id) for v in program.values
    ]
    # What was found, given as open hints: nothing is added.
    settled = Hints(
        values={
            v.id: Hint(
                dims=tuple(
                    DimHint(
                        axes=axes,
                        open=v.id not in given_hints.values
                        or given_hints.values[v.id].dims[d].open,
                    )
                    for d, axes in enumerate(first.value(v.id).dims)
                ),
                replicated=given_hints.values[v.id].replicated
                if v.id in given_hints.values
                else frozenset(),
            )
            for v in program.values
        },
        results={
            leaf.op: Hint(
                dims=tuple(DimHint(axes=axes, open=True) for axes in first.result(leaf.op).dims)
            )
            for leaf in program.results
        },
    )
    second = propagate(ruled(name), MESH, settled)
    assert [second.value(v.id) for v in program.values] == [
        first.value(v.id) for v in program.values
    ]
    assert second.labels == first.labels


@functools.cache
def wanted(name: str):
    function, args = PROGRAMS[name]
    return jax.jit(function)(*args)


@st.composite
def pins(draw: st.DrawFn, name: str) -> dict[str, P]:
    program = ruled(name).program
    leaves = {leaf.path: program.argument_value(leaf).shape for leaf in program.arguments}
    chosen = draw(st.lists(st.sampled_from(sorted(leaves)), min_size=1, max_size=4, unique=True))
    found = {}
    for path in chosen:
        axes = draw(dims(leaves[path]))
        found[path] = P(
            *(P.UNCONSTRAINED if not a and draw(st.booleans()) else (a or None) for a in axes)
        )
    return found


def check_numbers(name, chosen, strategy, compile_plan, tree_error):
    function, args = PROGRAMS[name]
    planned = compile_plan(function, args, strategy, MESH.text, pins=chosen)
    for path, spec in chosen.items():
        found = planned.plan.leaf(path).spec.dims
        for axes, entry in zip(found, spec, strict=True):
            if entry is not P.UNCONSTRAINED:
                assert axes == Spec.from_partition_spec((entry,), 1).dims[0]
    assert tree_error(planned(*args), wanted(name)) < 2e-5


@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_pins_compute_the_same(name, data, compile_plan, tree_error):
    check_numbers(name, data.draw(pins(name)), "propagate", compile_plan, tree_error)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["propagate", "dp", "zero3@a,b", "zero3@a,b+tensor@c"])
@pytest.mark.parametrize("name", PROGRAMS)
@given(data=st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_many_random_pins(name, strategy, data, compile_plan, tree_error):
    check_numbers(name, data.draw(pins(name)), strategy, compile_plan, tree_error)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_pin_holds_or_is_refused(data):
    """Whatever is written as a pin: it holds, or an error of ours says why not."""
    entry = st.sampled_from([None, "a", "b", "z", ("a", "b"), ("a", "a"), ("b", "c", "a"), 3, ()])
    spec = data.draw(st.lists(entry, max_size=4))
    key = data.draw(st.sampled_from(["x", "params/in", ".*", "params/(", "nothing", "", "y|x"]))
    try:
        pin = P(*spec)
    except (TypeError, ValueError):
        return  # no PartitionSpec
    try:
        plan = plan_by_recipe(ruled("mlp"), MESH, "propagate", pins={key: pin})
    except PinError as error:
        assert "Mend it: " in str(error)
    else:
        assert any(
            leaf.reason.startswith("pinned") or "pinned by" in leaf.reason
            for leaf in plan.arguments
        )
