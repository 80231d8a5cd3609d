"""Static and keyword arguments, several shapes, and what is traced when."""

import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.errors import StaticArgumentError


@pytest.mark.parametrize("options", [{"static_argnums": 2}, {"static_argnames": ("power",)}])
def test_static_by_position_keyword_and_default(options, batch):
    def step(state, x, power=2, *, scale):
        assert isinstance(power, int)
        return state, scale * jnp.mean((x @ state["w"]) ** power)

    planned = autoshard.parallelize(step, **options)
    state = {"w": jnp.ones((16, 8))}
    x = batch["x"]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((state, x), {"scale": 2.0}),
        ((state, x, 2), {"scale": 2.0}),
        ((state, x), {"power": 2, "scale": 2.0}),
        ((), {"state": state, "x": x, "power": 2, "scale": 2.0}),
        ((state, x, 3), {"scale": 2.0}),
    ]
    for args, kwargs in calls:
        expected = step(*args, **kwargs)[1]
        np.testing.assert_allclose(float(planned(*args, **kwargs)[1]), float(expected), rtol=1e-4)


def test_static_before_arrays_and_negative_numbers(batch):
    def apply(kind, w, /, x, *more, last):
        return getattr(jnp, kind)(x @ w + sum(more)) + last

    w = np.ones((16, 8), np.float32)
    planned = autoshard.parallelize(apply, static_argnums=-3, strategy="dp")
    expected = jnp.tanh(batch["x"] @ w + 3.0) + 1
    got = planned("tanh", w, batch["x"], 1.0, 2.0, last=1.0)
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-5, atol=1e-6)
    assert [leaf.path for leaf in planned.last_plan.arguments][:2] == ["w", "x"]


def test_static_values_of_equal_hash_are_told_apart(batch):
    def apply(x, flag):
        return x.astype(float) * 2 if flag is True else x

    planned = autoshard.parallelize(apply, static_argnames="flag", strategy="dp")
    x = batch["x"]
    np.testing.assert_array_equal(np.asarray(planned(x, True)), x * 2)
    np.testing.assert_array_equal(np.asarray(planned(x, 1)), x)
    np.testing.assert_array_equal(np.asarray(planned(x, True)), x * 2)


def test_unhashable_static(batch):
    planned = autoshard.parallelize(lambda x, sizes: x, static_argnames="sizes")
    with pytest.raises(StaticArgumentError, match="list"):
        planned(batch["x"], [1, 2])


def test_keyword_array_arguments(step_function, create_state, batch, on_one_device, same):
    step = autoshard.parallelize(step_function)
    result = step(batch=batch, state=create_state(jax.random.key(0)))
    same(result, on_one_device)
    assert {leaf.path for leaf in step.last_plan.state} == {"state/b", "state/v", "state/w"}


class Counted:
    """Counts how often a function's Python code runs."""

    def __init__(self, function):
        self.function = function
        self.count = 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.function(*args, **kwargs)


def test_traced_once_per_shape(step_function, create_state, batch_of):
    counted = Counted(step_function)
    step = autoshard.parallelize(counted)
    state = step.init(create_state, jax.random.key(0), step_args=(batch_of(16),))
    for _ in range(3):
        state, _ = step(state, batch_of(16))
    step.plan(state, batch_of(16))
    assert counted.count == 1
    for n in (32, 16, 32, 16):
        state, _ = step(state, batch_of(n))
    assert counted.count == 2
    step(state, jax.tree.map(jnp.asarray, batch_of(16)))  # device arrays run the same program
    assert counted.count == 2


def test_settings_that_change_a_trace_are_seen(batch):
    seen = []

    def apply(x):
        seen.append(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
        return x @ x.T

    planned = autoshard.parallelize(apply, strategy="dp", mesh="data=8")
    planned(batch["x"])
    with jax.default_matmul_precision("highest"):
        planned(batch["x"])
        planned(batch["x"])
    planned(batch["x"])
    assert seen == [None, "highest"]


def test_python_scalars_and_their_types():
    planned = autoshard.parallelize(lambda x, s: x * s, strategy="dp")
    x = np.arange(8, dtype=np.int32)
    assert planned(x, 2).dtype == jnp.int32
    assert planned(x, 2.0).dtype == jnp.float32
    assert planned(x, 3).dtype == jnp.int32
    np.testing.assert_array_equal(np.asarray(planned(x, 3)), x * 3)


def test_a_second_shape_leaves_the_state_where_it_is(step_function, create_state, batch_of, same):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    state = step.init(create_state, jax.random.key(0), step_args=(batch_of(16),))
    first = {leaf.path: leaf.spec for leaf in step.last_plan.state}
    step.plan(state, batch_of(32))
    assert {leaf.path: leaf.spec for leaf in step.last_plan.state} == first
    with jax.transfer_guard_device_to_device("disallow_explicit"):
        new, _ = step(state, autoshard.shard_batch(batch_of(32), step))
    expected, _ = jax.jit(step_function)(create_state(jax.random.key(0)), batch_of(32))
    same(new, expected)


def buffers(tree):
    return [
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
    ]


def test_like_shares_specs_and_moves_nothing(
    step_function, loss_function, create_state, batch, on_one_device
):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    evaluate = autoshard.parallelize(loss_function, like=step)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    placed = autoshard.shard_batch(batch, step)
    before = buffers(state)
    with jax.transfer_guard_device_to_device("disallow_explicit"):
        loss = evaluate(state, placed)
    np.testing.assert_allclose(float(loss), float(on_one_device[1]["loss"]), rtol=1e-5)
    assert evaluate.mesh is step.mesh
    assert evaluate.last_plan.strategy == "zero3+tensor"
    for leaf in step.last_plan.state:
        assert evaluate.last_plan.leaf(leaf.path).spec == leaf.spec
    assert buffers(state) == before
    entry = evaluate._memory.latest
    assert entry is not None
    leaves = jax.tree.leaves(state)
    kept = evaluate._memory.owned.place(leaves, entry.shardings[:3], entry.donated[:3])
    assert all(a is b for a, b in zip(kept, leaves, strict=True))
    step(state, placed)  # and the state can still be donated
    assert all(leaf.is_deleted() for leaf in leaves)


def test_like_with_parameters_alone(step_function, create_state, batch):
    class TrainState(NamedTuple):
        params: dict
        steps: jax.Array

    def step(state, batch):
        params, metrics = step_function(state.params, batch)
        return TrainState(params, state.steps + 1), metrics

    def create(key):
        return TrainState(create_state(key), jnp.zeros((), jnp.int32))

    planned = autoshard.parallelize(step, mesh="data=2,model=4", strategy="zero3+tensor")
    apply = autoshard.parallelize(lambda params, x: jnp.tanh(x @ params["w"]), like=planned)
    state = planned.init(create, jax.random.key(0), step_args=(batch,))
    apply(state.params, batch["x"])
    wanted = planned.last_plan.leaf("state/params/w").spec
    assert apply.last_plan.leaf("params/w").spec == wanted


def test_two_threads_plan_once(step_function, create_state, batch):
    counted = Counted(step_function)
    step = autoshard.parallelize(counted)
    losses = []

    def work():
        losses.append(float(step(create_state(jax.random.key(0)), batch)[1]["loss"]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.count == 1
    assert losses[0] == losses[1]
