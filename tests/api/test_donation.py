"""What a call may delete: state that the function made, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import DeletedArrayError


def alive(tree):
    return not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("donate", ["auto", True])
def test_own_state_is_donated(donate, step_function, create_state, batch):
    step = autoshard.parallelize(step_function, donate=donate)
    born = step.init(create_state, jax.random.key(0), step_args=(batch,))
    first, _ = step(born, batch)
    second, _ = step(first, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((born, first)))
    assert alive(second)


def test_donate_false_never(step_function, create_state, batch, on_one_device, same):
    step = autoshard.parallelize(step_function, donate=False)
    born = step.init(create_state, jax.random.key(0), step_args=(batch,))
    first = step(born, batch)
    again = step(born, batch)
    assert alive(born) and alive(first)
    same(first, on_one_device)
    same(again, first, rtol=0)


def foreign_states(state, mesh, plan):
    shard = {name: plan.leaf(f"state/{name}").spec.partition_spec() for name in state}
    return {
        "single device": state,
        "as planned": {
            name: jax.device_put(value, NamedSharding(mesh, shard[name]))
            for name, value in state.items()
        },
        "replicated": jax.device_put(state, NamedSharding(mesh, P())),
        "otherwise sharded": jax.device_put(state, NamedSharding(mesh, P(("data", "model")))),
        "on another device": jax.device_put(state, jax.devices()[5]),
        "host": jax.tree.map(np.asarray, state),
    }


@pytest.mark.parametrize(
    "kind",
    ["single device", "as planned", "replicated", "otherwise sharded", "on another device", "host"],
)
@pytest.mark.parametrize("strategy", ["zero3+tensor", "dp"])
@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
def test_foreign_state_survives(
    kind, strategy, compiled, step_function, create_state, batch, on_one_device, same
):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy=strategy)
    state = create_state(jax.random.key(0))
    state["b"] = jnp.zeros((32,))
    foreign = foreign_states(state, step.mesh, step.plan(state, batch))[kind]
    run = step.compile(state, batch) if compiled else step
    first, _ = run(foreign, batch)
    run(first, batch)  # what it made itself goes
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    same(run(foreign, batch), on_one_device)
    if kind != "host":
        assert alive(foreign)
    same(foreign, create_state(jax.random.key(0)), rtol=0)


def test_batch_is_never_donated(step_function, create_state, batch):
    step = autoshard.parallelize(step_function)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    placed = autoshard.shard_batch(batch, step)
    for _ in range(3):
        state, _ = step(state, placed)
    assert alive(placed)


def test_array_twice_in_the_state(batch):
    def step(state, x):
        new = jax.tree.map(lambda a: a + jnp.mean(x @ state["a"]), state)
        return new, jnp.sum(x)

    planned = autoshard.parallelize(step)
    shared = jnp.ones((16, 8))
    state = {"a": shared, "b": shared}
    new, _ = planned(state, batch["x"])
    assert alive(state)
    twice = {"a": new["a"], "b": new["a"]}  # own arrays, but one memory for two donations
    newer, _ = planned(twice, batch["x"])
    expected = step(step(state, batch["x"])[0], batch["x"])[0]
    np.testing.assert_allclose(np.asarray(newer["a"]), np.asarray(expected["a"]), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(newer["b"]), np.asarray(expected["b"]), rtol=1e-4)


def test_own_array_as_state_and_as_data():
    def step(state, x):
        return {"w": state["w"] * 2}, jnp.sum(x * 3, axis=1)

    planned = autoshard.parallelize(step, strategy="dp")
    w = planned({"w": jnp.ones((16, 8))}, jnp.ones((16, 8)))[0]["w"]
    state, sums = planned({"w": w}, w)
    np.testing.assert_array_equal(np.asarray(state["w"]), np.full((16, 8), 4.0))
    np.testing.assert_array_equal(np.asarray(sums), np.full(16, 48.0))


def test_state_that_was_donated_is_refused_with_advice(step_function, create_state, batch):
    step = autoshard.parallelize(step_function)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    evaluate = autoshard.parallelize(lambda s, b: jnp.mean(b["x"] @ s["w"]), like=step)
    step(state, batch)
    for function in (step, evaluate):
        with pytest.raises(DeletedArrayError, match="donate=False"):
            function(state, batch)


def test_results_that_alias(batch):
    """A result given back twice, and an argument given back, are arrays of their own."""

    def step(state, x):
        new = {"w": state["w"] + 1, "frozen": state["frozen"], "last": x}
        return new, {"same": new["w"], "old": state["w"], "x": x}

    planned = autoshard.parallelize(step, strategy="dp")
    x = autoshard.shard_batch(batch["x"], planned.mesh)
    state = {"w": jnp.ones((16, 8)), "frozen": jnp.ones((3,)), "last": jnp.zeros((16, 16))}
    kept = []
    for _ in range(3):
        state, out = planned(state, x)
        kept.append(out)
    assert alive((kept, x, state))
    for i, out in enumerate(kept):
        np.testing.assert_array_equal(np.asarray(out["same"]), np.full((16, 8), i + 2.0))
        np.testing.assert_array_equal(np.asarray(out["old"]), np.full((16, 8), i + 1.0))
    np.testing.assert_array_equal(np.asarray(x), batch["x"])


def test_init_never_hands_out_its_arguments(batch):
    def step(state, x):
        return {"w": state["w"] + jnp.mean(x)}, jnp.mean(x)

    planned = autoshard.parallelize(step, strategy="dp")
    pretrained = jax.device_put(jnp.ones((16, 8)), NamedSharding(planned.mesh, P()))
    state = planned.init(lambda w: {"w": w}, pretrained, step_args=(batch["x"],))
    planned(state, batch["x"])
    assert not pretrained.is_deleted()


def test_a_view_on_the_host_keeps_its_values(batch):
    def step(state, x):
        return {"w": state["w"] + 1}, jnp.mean(x)

    planned = autoshard.parallelize(step, strategy="dp")
    state, _ = planned({"w": jnp.zeros((16, 8))}, batch["x"])
    view = np.asarray(state["w"])
    for _ in range(3):
        state, _ = planned(state, batch["x"])
    np.testing.assert_array_equal(view, np.ones((16, 8)))


def test_ownership_forgets_what_is_gone():
    from autoshard.api._ownership import Ownership

    owned = Ownership()
    kept = [jnp.zeros(()) for _ in range(3)]
    owned.add(kept)
    for _ in range(40):
        owned.add([jnp.zeros(()) for _ in range(100)])
    assert len(owned._arrays) + sum(map(len, owned._pending.values())) < 3500
    assert all(array in owned for array in kept)
    assert jnp.zeros(()) not in owned
