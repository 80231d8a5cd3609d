"""Every pin that cannot hold is met by a text that names path, axis, sizes and the ways out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import AutoshardError, PinError, PinSizeError
from autoshard.lowering import device_mesh
from autoshard.plan import parse_mesh

W = {"table": jnp.ones((257, 48)), "out": jnp.ones((48, 8)), "scale": jnp.ones((8,))}
BATCH = {"x": np.zeros((16,), np.int32)}
SEVEN = 7


def step(params, batch):
    def loss(params):
        rows = params["table"][batch["x"]]
        return jnp.mean((rows @ params["out"] * params["scale"][None]) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - g, params, grads), value


def run(pins, function=step, args=(W, BATCH), **options):
    planned = autoshard.parallelize(
        function, pins=pins, mesh="data=2,model=4", strategy="dp@data", **options
    )
    return planned.plan(*args)


def constrained(spec, mesh=None):
    """A program with a constraint, by a mesh of its own if it has one."""
    sharding = NamedSharding(device_mesh(parse_mesh(mesh, 8)), spec) if mesh else spec

    def scale(x):
        return jax.lax.with_sharding_constraint(x * 2.0, sharding).sum()

    return run(None, scale, (jnp.ones((16, 6)),))


def like():
    train = autoshard.parallelize(step, mesh="data=2,model=4", strategy="dp@data")
    train.plan(W, BATCH)
    return autoshard.parallelize(
        lambda params, batch: step(params, batch)[1],
        like=train,
        pins={"params/out": P(None, "model")},
    ).plan(W, BATCH)


def with_plan():
    plan = run({})
    return autoshard.parallelize(step, plan=plan, pins={"params/out": P()})


CASES = {
    "a pin that matches nothing": lambda: run({"params/tabel": P("model")}),
    "a pin with an empty key": lambda: run({"": P("model")}),
    "a pin that is no pattern": lambda: run({"params/(out": P("model")}),
    "a pin that does not divide": lambda: run({"params/table": P("model")}),
    "a pin that nothing divides": lambda: run({"params/scale": P(("data", "model"))}, args=(
        {**W, "scale": jnp.ones((1,))}, BATCH)),
    "a pin on two axes that do not divide": lambda: run({"params/table": P(("data", "model"))}),
    "a pin with an unknown axis": lambda: run({"params/out": P("modle")}),
    "a pin with an axis twice": lambda: run({"params/out": P("model", "model")}),
    "a pin of a wrong rank": lambda: run({"params/.*": P("model", None)}),
    "a pin that is no spec": lambda: run({"params/out": ("model", None)}),
    "a pin of partial sums": lambda: run({"params/out": P(unreduced=frozenset({"data"}))}),
    "pins that are no mapping": lambda: run([("params/out", P())]),
    "a pin with a number as key": lambda: run({SEVEN: P()}),
    "two patterns that contradict": lambda: run(
        {"params/o.*": P("model"), "params/.*t": P(None, "model")}
    ),
    "state pinned to two specs": lambda: run(
        {"params/out": P("model"), "0/out": P(None, "model")}
    ),
    "a pin against like": like,
    "pins beside a plan": with_plan,
    "a constraint with an unknown axis": lambda: constrained(P("rows")),
    "a constraint of another mesh": lambda: constrained(P("rows"), "rows=8"),
    "a constraint of a mesh of other sizes": lambda: constrained(P("data"), "data=4,model=2"),
    "a constraint that does not divide": lambda: constrained(P("data", "model")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_text(name, golden):
    with pytest.raises(AutoshardError) as caught:
        CASES[name]()
    text = str(caught.value)
    assert "\nMend it: " in text
    text = re.sub(r"\S*/(test_pin_errors\.py):\d+(:\d+)?", r"\1", text)
    golden(f"errors/{name.replace(' ', '_')}", f"{type(caught.value).__name__}\n{text}\n")


def test_all_are_one_kind():
    with pytest.raises(PinSizeError) as caught:
        run({"params/table": PartitionSpec("model")})
    error = caught.value
    assert (error.path, error.dim, error.size, error.n, error.padded) == (
        "params/table", 0, 257, 4, 260,
    )  # fmt: skip
    assert isinstance(error, PinError) and error.exit_code == 2
