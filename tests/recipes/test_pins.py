"""Pins hold in every strategy, state follows its parameter, and the numbers stay the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from autoshard.errors import PinConflictError
from autoshard.plan import Spec, parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace

MESH = parse_mesh("data=2,model=4", 8)
OPTIMIZERS = {
    "adamw": optax.adamw(1e-2),
    "momentum": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2, momentum=0.9)),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "muon": optax.contrib.muon(1e-2),
}


def make_step(optimizer):
    def step(state, batch):
        params, opt = state

        def loss(p):
            hidden = jnp.tanh(batch["x"] @ p["first"]["w"] + p["first"]["b"][None])
            return jnp.mean((hidden @ p["last"]["w"] - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), {"loss": value}

    return step


def arguments(optimizer):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "first": {"w": jax.random.normal(keys[0], (16, 32)) / 4, "b": jnp.zeros(32)},
        "last": {"w": jax.random.normal(keys[1], (32, 32)) / 6},
    }
    batch = {"x": jax.random.normal(keys[2], (16, 16)), "y": jax.random.normal(keys[3], (16, 32))}
    return (params, optimizer.init(params)), batch


def plan(strategy, pins, optimizer="adamw", **options):
    chosen = OPTIMIZERS[optimizer]
    program = trace(make_step(chosen), arguments(chosen))
    return plan_by_recipe(program, MESH, strategy, pins=pins, **options)


STRATEGIES = ["dp", "dp@data", "zero1", "zero2@data", "zero3", "zero3+tensor", "tensor", "megatron",
              "propagate", "replicate", "sequence@model"]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pins_hold_whatever_the_strategy_says(strategy):
    pins = {
        "state/0/first/w": P("model", None),
        "state/0/last/w": P(),
        "state/0/first/b": P(("data", "model")),
        "batch/x": P("data", "model"),
        "1/loss": P(),
    }
    found = plan(strategy, pins)
    for path in ("state/0", "state/1/0/mu", "state/1/0/nu", "0/0", "0/1/0/mu"):
        assert str(found.leaf(f"{path}/first/w").spec) == "P(model, -)"
        assert str(found.leaf(f"{path}/last/w").spec) == "P(-, -)"
        assert str(found.leaf(f"{path}/first/b").spec) == "P((data,model))"
    assert str(found.leaf("batch/x").spec) == "P(data, model)"
    assert found.leaf("state/0/last/w").reason == "pinned by pins['state/0/last/w']"
    assert found.leaf("state/1/0/mu/last/w").reason == "follows state/0/last/w"


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        ("dp", "adamw"),
        ("zero1@data", "adamw"),
        ("zero3+tensor", "adamw"),
        ("propagate", "adamw"),
        ("zero3", "adafactor"),
        *(
            pytest.param(strategy, optimizer, marks=pytest.mark.slow)
            for strategy in ("dp", "zero1@data", "zero2@data", "zero3+tensor", "propagate")
            for optimizer in ("momentum", "adafactor", "muon")
        ),
    ],
)
def test_numbers_stay_the_same(strategy, optimizer, compile_plan):
    chosen = OPTIMIZERS[optimizer]
    step, args = make_step(chosen), arguments(chosen)
    pins = {"params?/first/w|state/0/first/w": P("model", None), "batch/y": P(None, "model")}
    found = compile_plan(step, args, strategy, MESH.text, pins=pins)(*args)
    wanted = jax.jit(step)(*args)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


def test_factored_moments_follow_their_dimension():
    found = plan("dp@data", {"state/0/first/w": P(None, "model")}, "adafactor")
    assert str(found.leaf("v_col/first/w").spec) == "P(model)"
    assert str(found.leaf("v_row/first/w").spec) == "P(-)"


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "muon"])
def test_state_mirrors_without_names(optimizer):
    """The moments of a replicated parameter are replicated though the strategy cuts others."""
    found = plan("zero3", {"state/0/last/w": P()}, optimizer)
    moments = [
        leaf
        for leaf in found.state
        if leaf.path.startswith("state/1") and leaf.path.endswith("last/w") and leaf.shape
    ]
    assert moments and all(leaf.spec.is_replicated for leaf in moments)
    assert str(found.leaf("state/0/first/w").spec) != "P(-, -)"


def test_state_can_be_pinned_apart_from_its_parameter():
    found = plan("dp", {"state/0/last/w": P(), "state/1/.*/mu/last/w": P("model", None)})
    assert str(found.leaf("mu/last/w").spec) == "P(model, -)"
    assert str(found.leaf("nu/last/w").spec) == "P(-, -)"


def test_open_dimensions_are_the_strategy_s():
    closed = plan("zero3@data", {"state/0/last/w": P(None, "model")})
    assert str(closed.leaf("state/0/last/w").spec) == "P(-, model)"
    opened = plan("zero3@data", {"state/0/last/w": P(P.UNCONSTRAINED, "model")})
    assert str(opened.leaf("state/0/last/w").spec) == "P(data, model)"
    assert str(opened.leaf("mu/last/w").spec) == "P(data, model)"


def test_an_axis_that_no_term_uses_is_spread_from_the_pin():
    """Column, then row: the pin of one weight makes the stack tensor parallel."""
    found = plan("zero3@data", {"state/0/first/w": P(P.UNCONSTRAINED, "model")})
    assert str(found.leaf("state/0/first/b").spec) in ("P(model)", "P((model,data))")
    assert "model" in found.leaf("state/0/last/w").spec.dims[0]
    assert not any("model" in note for note in found.notes)


class TestKeys:
    def spec(self, pins, path):
        return str(plan("replicate@data", pins).leaf(path).spec)

    def test_a_whole_path_comes_before_a_pattern(self):
        pins = {"state/0/.*/w": P("model"), "state/0/last/w": P(None, "model")}
        assert self.spec(pins, "state/0/last/w") == "P(-, model)"
        assert self.spec(pins, "state/0/first/w") == "P(model, -)"

    def test_an_end_of_a_path(self):
        assert self.spec({"0/first/w": P("data")}, "state/0/first/w") == "P(data, -)"
        assert self.spec({"w": P("data")}, "state/1/0/mu/last/w") == "P(data, -)"

    def test_a_pattern_matches_whole_parts(self):
        found = plan("replicate", {"(first|last)/w": P("data")})
        assert str(found.leaf("state/0/first/w").spec) == "P(data, -)"
        assert str(found.leaf("state/1/0/nu/last/w").spec) == "P(data, -)"
        assert found.leaf("state/0/first/b").reason.startswith("data: follows")

    def test_results(self):
        program = trace(lambda x: {"y": x * 2.0, "s": x.sum()}, (jnp.ones((8, 8)),))
        found = plan_by_recipe(program, MESH, "replicate", pins={"y": P("data", "model")})
        assert str(found.leaf("y").spec) == "P(data, model)"

    def test_agreeing_patterns(self):
        pins = {".*/first/w": P("model"), "state/0/first/.": P("model")}
        assert self.spec({".*first/w": P("model", None)} | pins, "state/0/first/w") == "P(model, -)"

    def test_a_result_of_state_pins_its_argument(self):
        assert self.spec({"0/0/first/w": P("data")}, "state/0/first/w") == "P(data, -)"


def test_pins_allow_what_is_inherited():
    fixed = {"state/0/last/w": Spec((("data",), ("model",)))}
    pins = {"state/0/last/w": P(P.UNCONSTRAINED, "model")}
    assert str(plan("dp", pins, fixed=fixed).leaf("state/0/last/w").spec) == "P(data, model)"
    with pytest.raises(PinConflictError):
        plan("dp", {"state/0/last/w": P(None, "model")}, fixed=fixed)


def test_permuting_pins_changes_nothing():
    pins = {"state/0/first/w": P("model"), "batch/x": P("data"), ".*/b": P("model")}
    one = plan("zero3+tensor", pins)
    other = plan("zero3+tensor", dict(reversed(pins.items())))
    assert [leaf.spec for leaf in one.arguments] == [leaf.spec for leaf in other.arguments]
    assert one.constraints == other.constraints


@pytest.mark.parametrize(
    ("left", "right", "parts"),
    [
        (P(None, "model"), P("data", "model"), [(6, 1), (3, 1), (3, 1)]),
        (P("data", None), P("data", "model"), [(3, 4), (3, 1), (3, 1)]),
        (P("data", None), P(None, "model"), [(3, 4), (6, 1), None]),
        (P(), P("data"), [(6, 4), (3, 4), (3, 4)]),
    ],
)
def test_a_sum_of_pinned_arrays(left, right, parts, compile_plan):
    def add(a, b):
        return a + b

    args = (jnp.arange(24.0).reshape(6, 4), jnp.ones((6, 4)))
    planned = compile_plan(add, args, "propagate", MESH.text, pins={"a": left, "b": right})
    shapes = [leaf.spec.shard_shape(leaf.shape, MESH) for leaf in planned.plan.arguments]
    shapes += [leaf.spec.shard_shape(leaf.shape, MESH) for leaf in planned.plan.results]
    assert all(part in (None, shape) for part, shape in zip(parts, shapes, strict=True))
    np.testing.assert_array_equal(planned(*args), add(*args))
