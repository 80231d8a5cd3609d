"""Every mistake that a user can make is met by one text that says how to mend it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import autoshard
from autoshard.errors import AutoshardError
from autoshard.rules import rule_from_text

SEVEN: Any = 7
W = {"a": jnp.ones((8, 16)), "b": jnp.ones((16, 8)), "c": jnp.ones((8,))}


def step(params, batch):
    def loss(params):
        hidden = jnp.tanh(batch["x"] @ params["a"]) @ params["b"] + params["c"][None]
        return jnp.mean(hidden**2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - g, params, grads), value


def batch(rows=16):
    return {"x": np.ones((rows, 8), np.float32)}


def run(function=step, args=None, **options):
    return autoshard.parallelize(function, **options)(*(args or (W, batch())))


def forgets(params, batch):
    new, value = step(params, batch)
    return {k: v for k, v in new.items() if k != "c"}, value


def casts(params, batch):
    new, value = step(params, batch)
    return {**new, "a": new["a"].astype(jnp.bfloat16)}, value


def planned(**options):
    function = autoshard.parallelize(step, **options)
    function.plan(W, batch())
    return function


def twins():
    function = autoshard.parallelize(lambda left, right, x: x @ left["w"] @ right["w"])
    function.plan({"w": jnp.ones((8, 8))}, {"w": jnp.ones((8, 8))}, jnp.ones((16, 8)))
    return function


def model_with_references():
    with nnx.var_defaults(ref=True):
        return nnx.BatchNorm(8, rngs=nnx.Rngs(0))


def update_from_outside():
    model = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
    autoshard.parallelize(lambda x: model(x))(batch()["x"])


class NoHash:
    __hash__ = None  # type: ignore[assignment]


class Options(nnx.Module):
    def __init__(self):
        self.options = nnx.static(NoHash())
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        return x * self.scale


def register_twice():
    autoshard.register_rule("dot_general")(rule_from_text("([i])->([i])"))


def state_used_twice():
    function = planned()
    state, _ = function(W, batch())
    function(state, batch())
    function(state, batch())


@jax.tree_util.register_pytree_node_class
class Unhashable:
    """A pytree node whose static part is a list."""

    def __init__(self, w):
        self.w = w

    def tree_flatten(self):
        return [self.w], [1, 2]

    @classmethod
    def tree_unflatten(cls, static, leaves):
        del static
        return cls(*leaves)


CASES = {
    "a module that is closed over and updated": update_from_outside,
    "a module with references": lambda: autoshard.parallelize(lambda model, x: model(x))(
        model_with_references(), batch()["x"]
    ),
    "a module with static parts that have no hash": lambda: autoshard.parallelize(
        lambda model, x: model(x)
    )(Options(), batch()["x"]),
    "static arguments of a model": lambda: autoshard.parallelize(
        nn.Dense(8), static_argnames="train"
    ),
    "something that is no model": lambda: autoshard.wrap(7),  # pyright: ignore[reportArgumentType]
    "unknown strategy": lambda: run(strategy="fsdp"),
    "unknown axis": lambda: run(strategy="dp@rows"),
    "an axis for two terms": lambda: run(strategy="zero3@data+tensor@data", mesh="data=2,model=4"),
    "more terms than axes": lambda: run(strategy="zero3+tensor"),
    "no axis after the sign": lambda: run(strategy="dp@"),
    "empty strategy": lambda: run(strategy=" "),
    "too many devices": lambda: run(mesh="data=16"),
    "too few devices": lambda: run(mesh={"data": 2, "model": 2}),
    "two open sizes": lambda: run(mesh="data=-1,model=-1"),
    "a size that does not divide": lambda: run(mesh="data=-1,model=3"),
    "malformed mesh": lambda: run(mesh="data:8"),
    "an axis twice in the mesh": lambda: run(mesh="data=2,data=4"),
    "a mesh of size zero": lambda: run(mesh={"data": 0}),
    "not a mesh": lambda: run(mesh=8),
    "state that loses a leaf": lambda: run(forgets),
    "state that changes its type": lambda: run(casts),
    "unhashable static": lambda: run(
        lambda params, batch, options: step(params, batch),
        (W, batch(), [1]),
        static_argnames="options",
    ),
    "unknown static name": lambda: run(static_argnames="option"),
    "static position out of range": lambda: run(static_argnums=5),
    "not an array": lambda: run(args=(W, {"x": "text"})),
    "batch that does not divide": lambda: run(args=(W, batch(6))),
    "no data at all": lambda: run(lambda params: params["a"].sum(), (W,)),
    "unknown path": lambda: planned().explain("params/aa"),
    "ambiguous path": lambda: twins().explain("w"),
    "not planned": lambda: autoshard.parallelize(step).explain(),
    "emulation too late": lambda: autoshard.emulate(4),
    "emulation of nothing": lambda: autoshard.emulate(0),
    "unknown donation": lambda: autoshard.parallelize(step, donate="sometimes"),
    "like something else": lambda: autoshard.parallelize(step, like=SEVEN),
    "not a function": lambda: autoshard.parallelize(mesh="data=8")(SEVEN),
    "a batch that cannot be laid out": lambda: autoshard.shard_batch(
        {"x": np.ones((6, 8), np.float32)}, planned()
    ),
    "a batch that the plan does not know": lambda: autoshard.shard_batch(
        {"y": np.ones((16, 8), np.float32)}, planned()
    ),
    "a batch without names": lambda: autoshard.shard_batch(np.ones((8, 8), np.float32), twins()),
    "a second rule": register_twice,
    "state used twice": state_used_twice,
    "shapes instead of arrays": lambda: run(args=(jax.eval_shape(lambda: W), batch())),
    "a tree that cannot be hashed": lambda: run(
        lambda u, x: (u, x), (Unhashable(jnp.ones((8, 8))), jnp.ones((8, 8)))
    ),
    "compiled for another shape": lambda: autoshard.parallelize(step).compile(W, batch())(
        W, batch(32)
    ),
    "compiled for another tree": lambda: autoshard.parallelize(step).compile(W, batch())(
        W, {"y": batch()["x"]}
    ),
    "like on another mesh": lambda: run(like=planned(), mesh="data=2,model=4"),
    "init of something else": lambda: autoshard.parallelize(
        lambda batch, params: step(params, batch)[::-1]
    ).init(batch, step_args=(W,)),
    "init with something else": lambda: autoshard.parallelize(step).init(
        lambda kind: W, "small", step_args=(batch(),)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text(name, golden):
    with pytest.raises(AutoshardError) as caught:
        CASES[name]()
    text = str(caught.value)
    assert "Mend it: " in text or name == "a second rule"
    golden(f"errors/{name.replace(' ', '_')}", f"{type(caught.value).__name__}\n{text}\n")
