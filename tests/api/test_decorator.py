"""The forms in which the decorator, its mesh and its strategy are written."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard


def test_bare(batch, create_state, on_one_device, same):
    @autoshard.parallelize
    def step(state, batch):
        """Doc."""
        loss = jnp.mean((batch["x"] @ state["w"]) ** 2)
        return jax.tree.map(lambda a: a * 0.5, state), {"loss": loss}

    assert (vars(step)["__name__"], step.__doc__) == ("step", "Doc.")
    state, _ = step(create_state(jax.random.key(0)), batch)
    same(state["v"], create_state(jax.random.key(0))["v"] * 0.5)
    assert step.last_plan.strategy == "zero3"
    assert step.last_plan.mesh.text == "data=8"


def test_with_options(step_function, create_state, batch, on_one_device, same):
    step = autoshard.parallelize(mesh="data=2,model=4", strategy="zero3+tensor")(step_function)
    result = step(create_state(jax.random.key(0)), batch)
    same(result, on_one_device)
    assert result[0]["w"].sharding.spec == P("data", "model")
    assert "zero3+tensor" in repr(step)


@pytest.mark.parametrize(
    "mesh",
    [
        "data=2,model=4",
        "data=-1,model=4",
        {"data": 2, "model": 4},
        {"data": 2, "model": -1},
        Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model")),
        jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2),
    ],
    ids=["string", "string-rest", "dict", "dict-rest", "mesh", "explicit"],
)
def test_mesh_forms(mesh, step_function):
    step = autoshard.parallelize(step_function, mesh=mesh)
    assert dict(step.mesh.shape) == {"data": 2, "model": 4}
    assert set(step.mesh.axis_types) == {AxisType.Auto}


def test_explicit_axes_are_rebuilt_and_the_plan_says_so(
    step_function, create_state, batch, on_one_device, same
):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    step = autoshard.parallelize(step_function, mesh=mesh, strategy="dp")
    placed = jax.device_put(batch, NamedSharding(mesh, P("data")))
    state = jax.device_put(create_state(jax.random.key(0)), NamedSharding(mesh, P()))
    same(step(state, placed), on_one_device)
    assert any("Explicit" in note and "Auto" in note for note in step.last_plan.notes)


def test_device_order_of_a_given_mesh_holds(step_function, create_state, batch):
    devices = np.array(jax.devices()[::-1])
    step = autoshard.parallelize(step_function, mesh=Mesh(devices, ("data",)), strategy="dp")
    assert list(step.mesh.devices.flat) == list(devices)
    state, _ = step(create_state(jax.random.key(0)), batch)
    assert list(state["w"].sharding.mesh.devices.flat) == list(devices)


@pytest.mark.parametrize("n", [1, 4])
def test_some_of_the_devices(n, step_function, create_state, batch, on_one_device, same):
    mesh = Mesh(np.array(jax.devices()[:n]), ("data",))
    step = autoshard.parallelize(step_function, mesh=mesh)
    result = step(create_state(jax.random.key(0)), batch)
    same(result, on_one_device)
    assert result[0]["w"].sharding.device_set == set(jax.devices()[:n])


@pytest.mark.parametrize(
    ("mesh", "strategy"),
    [
        ("data=8", "dp"),
        ("data=8", "zero3"),
        ("data=2,model=4", "dp"),
        ("data=2,model=4", "dp+tensor"),
        ("model=4,data=2", "zero3@data+tensor@model"),
        ("a=2,b=2,c=2", "zero3@a,b+tensor@c"),
        ("model=8", "tensor"),
    ],
)
def test_strategies(mesh, strategy, step_function, create_state, batch, on_one_device, same):
    step = autoshard.parallelize(step_function, mesh=mesh, strategy=strategy)
    same(step(create_state(jax.random.key(0)), batch), on_one_device)


def test_partial_and_callable_object(step_function, create_state, batch, on_one_device, same):
    class Step:
        plan = 7  # must not hide the decorated function's

        def __init__(self):
            self.explain = 7

        def __call__(self, state, batch):
            return step_function(state, batch)

    def scaled(scale, state, batch):
        return step_function(state, jax.tree.map(lambda x: scale * x, batch))

    state = create_state(jax.random.key(0))
    partial = autoshard.parallelize(functools.partial(scaled, 1.0))
    same(partial(state, batch), on_one_device)
    called = autoshard.parallelize(Step())
    assert called.plan(state, batch).strategy == "zero3"
    assert "state/w" in called.explain("state/w")
    same(called(state, batch), on_one_device)


def test_method_with_static_self(step_function, create_state, batch, on_one_device, same):
    class Trainer:
        def __init__(self, rate):
            self.rate = rate

        @autoshard.parallelize(static_argnames="self")
        def step(self, state, batch):
            """Doc."""
            new, metrics = step_function(state, batch)
            return jax.tree.map(lambda a, b: a + self.rate * (b - a), state, new), metrics

    trainer = Trainer(1.0)
    state = trainer.step.init(create_state, jax.random.key(0), step_args=(batch,))
    assert trainer.step.plan(state, batch).leaf("state/w").spec.axes == ("data",)
    same(trainer.step(state, batch), on_one_device)
    start = create_state(jax.random.key(0))
    same(Trainer(0.0).step(start, batch)[0], start)
    assert Trainer.step.__doc__ == "Doc."


def test_method_of_a_tree(batch, same):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Model:
        w: jax.Array

        @autoshard.parallelize(strategy="dp")
        def apply(self, x):
            return jnp.tanh(x @ self.w)

    model = Model(jnp.ones((16, 4)))
    same(model.apply(batch["x"]), jnp.tanh(batch["x"] @ np.ones((16, 4), np.float32)))
    assert [leaf.path for leaf in Model.apply.last_plan.arguments] == ["self/w", "x"]


def test_nested_decorated_functions(step_function, loss_function, create_state, batch, same):
    inner = autoshard.parallelize(loss_function, strategy="dp", donate=False)

    @autoshard.parallelize(strategy="dp")
    def step(state, batch):
        loss, gradients = jax.value_and_grad(inner)(state, batch)
        return {name: state[name] - 0.1 * gradients[name] for name in state}, {"loss": loss}

    state = create_state(jax.random.key(0))
    same(step(state, batch), jax.jit(step_function)(state, batch))


def test_results_of_any_form(batch):
    @autoshard.parallelize(strategy="dp")
    def nothing(x):
        return None

    @autoshard.parallelize(strategy="dp")
    def many(x, scale):
        return {"mean": jnp.mean(x), "none": None, "seven": 7, "text": ()}, [x * scale]

    assert nothing(batch["x"]) is None
    first, (second,) = many(batch["x"], 2)
    assert first["none"] is None and first["text"] == () and int(first["seven"]) == 7
    np.testing.assert_allclose(float(first["mean"]), batch["x"].mean(), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(second), batch["x"] * 2)
    assert many(batch["x"], 3)[1][0].sharding.spec == P("data")


def test_empty_trees(batch):
    @autoshard.parallelize(strategy="dp")
    def step(state, extra, x):
        return state, jnp.sum(x, axis=1)

    state, sums = step({}, None, batch["x"])
    assert state == {} and sums.shape == (16,)


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_keys_are_replicated_arguments(raw, create_state, batch):
    def step(state, batch, key):
        noise = jax.random.normal(key, batch["x"].shape)
        return state, jnp.mean((batch["x"] + noise) @ state["w"])

    key = jax.random.PRNGKey(3) if raw else jax.random.key(3)
    planned = autoshard.parallelize(step)
    state = create_state(jax.random.key(0))
    expected = step(state, batch, key)[1]
    np.testing.assert_allclose(float(planned(state, batch, key)[1]), float(expected), rtol=2e-5)
    assert planned.last_plan.leaf("key").spec.is_replicated


def test_exception_of_the_user_keeps_type_and_traceback(batch):
    class OwnError(Exception):
        pass

    @autoshard.parallelize
    def step(state, batch):
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine") as caught:
        step({"w": np.ones(8)}, batch)
    frames = [entry.name for entry in caught.traceback]
    assert frames[-1] == "step"


def test_captured_arrays_are_planned(batch):
    table = jnp.arange(16 * 32, dtype=jnp.float32).reshape(16, 32) / 512

    @autoshard.parallelize
    def step(state, x):
        return {"w": state["w"] + 1}, jnp.mean((x @ table) @ state["w"])

    state, mean = step({"w": jnp.ones((32, 8))}, batch["x"])
    expected = np.mean((batch["x"] @ np.asarray(table)) @ np.ones((32, 8)))
    np.testing.assert_allclose(float(mean), expected, rtol=1e-4)
    assert len(step.last_plan.arguments) == 3
    assert not table.is_deleted()
    step(state, batch["x"])
