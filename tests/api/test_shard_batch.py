"""`autoshard.shard_batch`: host arrays to global ones, placed as the plan wants them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import BatchShapeError, NotPlannedError, PathError


@pytest.fixture
def step(step_function, create_state, batch):
    planned = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    planned.plan(create_state(jax.random.key(0)), batch)
    return planned


def test_like_a_step_its_plan_or_a_mesh(step, batch):
    for like, spec in [
        (step, P("data")),
        (step.last_plan, P("data")),
        (step.mesh, P(("data", "model"))),
    ]:
        placed = autoshard.shard_batch(batch, like)
        for name, array in placed.items():
            assert isinstance(array, jax.Array)
            assert array.sharding.is_equivalent_to(NamedSharding(step.mesh, spec), 2)
            np.testing.assert_array_equal(np.asarray(array), batch[name])


def test_another_batch_size(step, batch_of):
    placed = autoshard.shard_batch(batch_of(32), step)
    assert placed["x"].shape == (32, 16)
    assert placed["x"].sharding.shard_shape(placed["x"].shape) == (16, 16)


def test_device_arrays(step, batch):
    placed = autoshard.shard_batch(jax.tree.map(jnp.asarray, batch), step)
    np.testing.assert_array_equal(np.asarray(placed["x"]), batch["x"])


def test_an_array_alone_needs_one_data_argument(batch):
    table = jnp.ones((16, 4))  # closed over: no data
    single = autoshard.parallelize(lambda state, x: (state, jnp.mean(x @ table)), strategy="dp")
    single.plan({"a": jnp.ones(3), "b": jnp.ones(4)}, batch["x"])
    assert autoshard.shard_batch(batch["x"], single).sharding.spec == P("data")
    double = autoshard.parallelize(lambda state, x, y: (state, jnp.mean(x - y)), strategy="dp")
    double.plan({"a": jnp.ones(3), "b": jnp.ones(4)}, batch["x"], batch["y"])
    assert set(autoshard.shard_batch(batch, double)) == {"x", "y"}
    with pytest.raises(PathError, match="without a name"):
        autoshard.shard_batch(batch["x"], double)


def test_errors(step, step_function, batch_of):
    with pytest.raises(BatchShapeError, match=r"\(9, 16\)"):
        autoshard.shard_batch(batch_of(9), step)
    with pytest.raises(BatchShapeError):
        autoshard.shard_batch({"x": np.float32(1.0)}, step.mesh)
    with pytest.raises(PathError):
        autoshard.shard_batch({"z": batch_of()["x"]}, step)
    with pytest.raises(NotPlannedError):
        autoshard.shard_batch(batch_of(), autoshard.parallelize(step_function))
