"""Calling a parallelized function in all the ways that a plain one is called."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import (
    ArgumentError,
    MeshError,
    NotPlannedError,
    OptionError,
    StateStructureError,
    StaticArgumentError,
    StrategyError,
)

TX = optax.adam(1e-2)
X = jax.ShapeDtypeStruct((16, 8), jnp.float32)


def create(rng):
    k1, k2 = jax.random.split(rng)
    params = {
        "up": jax.random.normal(k1, (8, 32)),
        "down": jax.random.normal(k2, (32, 8)),
    }
    return params, TX.init(params)


def loss_fn(params, x):
    return jnp.mean((jnp.tanh(x @ params["up"]) @ params["down"] - x) ** 2)


def step(state: Any, x: Any) -> Any:
    params, opt_state = state
    loss, grads = jax.value_and_grad(loss_fn)(params, x)
    updates, opt_state = TX.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def data(rows=16, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 8), np.float32)


def assert_close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.fixture
def planned():
    return autoshard.parallelize(step, mesh="data=2,model=4", strategy="zero3+tensor")


def test_trains_as_one_device_does(planned):
    state = planned.init(create, jax.random.key(0), step_args=(X,))
    expected = jax.jit(create)(jax.random.key(0))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(4):
        state, loss = planned(state, data(seed=i))
        expected, wanted = jax.jit(step)(expected, data(seed=i))
        np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert_close(state, expected)
    assert state[0]["up"].sharding.spec == P("data", "model")


def test_own_state_is_donated_and_foreign_state_is_not(planned):
    foreign = jax.jit(create)(jax.random.key(0))
    mine, _ = planned(foreign, data())
    again, _ = planned(mine, data())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(foreign))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(mine) if leaf.ndim)
    # Arrays that already lie as planned are still somebody else's.
    copied = jax.tree.map(lambda x: x + 0, again)
    planned(copied, data())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(copied))


def test_one_array_twice_in_the_state(planned):
    state = planned.init(create, jax.random.key(0), step_args=(X,))
    params, opt = state
    shared = (params, (opt[0]._replace(mu=params), *opt[1:]))
    _, loss = planned(shared, data())
    assert np.isfinite(loss)


def test_donate_false_keeps_everything():
    kept = autoshard.parallelize(step, donate=False)
    state = kept.init(create, jax.random.key(0), step_args=(X,))
    kept(state, data())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_another_batch_keeps_the_specs_of_the_state(planned):
    state = planned.init(create, jax.random.key(0), step_args=(X,))
    first = planned.plan(state, X)
    second = planned.plan(state, jax.ShapeDtypeStruct((64, 8), jnp.float32))
    assert [leaf.spec for leaf in first.state] == [leaf.spec for leaf in second.state]
    state, _ = planned(state, data())
    state, loss = planned(state, data(64))
    assert np.isfinite(loss)


def test_evaluation_shares_the_plan(planned):
    state = planned.init(create, jax.random.key(0), step_args=(X,))
    evaluate = autoshard.parallelize(lambda state, x: loss_fn(state[0], x), like=planned)
    wanted = loss_fn(jax.device_get(state[0]), data())
    np.testing.assert_allclose(evaluate(state, data()), wanted, rtol=1e-6)
    for path in ("state/0/up", "state/0/down"):
        assert evaluate.last_plan.leaf(path).spec == planned.last_plan.leaf(path).spec
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("strategy", ["dp", "tensor", "zero3"])
def test_inside_other_transformations(strategy):
    params = jax.jit(create)(jax.random.key(0))[0]
    loss = autoshard.parallelize(loss_fn, strategy=strategy)
    wanted = loss_fn(params, data())
    np.testing.assert_allclose(loss(params, data()), wanted, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(params, data()), wanted, rtol=1e-6)
    assert_close(jax.grad(loss)(params, data()), jax.grad(loss_fn)(params, data()))
    many = jax.vmap(loss, in_axes=(None, 0))(params, np.stack([data(), data()]))
    np.testing.assert_allclose(many, [wanted, wanted], rtol=1e-6)
    with jax.disable_jit():
        np.testing.assert_allclose(loss(params, data()), wanted, rtol=1e-6)
    assert jax.eval_shape(loss, params, data()).shape == ()


def test_a_custom_derivative_survives():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (10 * g,))
    f = autoshard.parallelize(lambda x: double(x).sum(), strategy="dp")
    np.testing.assert_array_equal(jax.grad(f)(jnp.ones((8, 2))), jnp.full((8, 2), 10.0))


def test_a_mesh_of_one_device():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    one = autoshard.parallelize(step, mesh=mesh)
    state = one.init(create, jax.random.key(0), step_args=(X,))
    state, loss = one(state, data())
    np.testing.assert_allclose(loss, step(jax.jit(create)(jax.random.key(0)), data())[1], rtol=1e-6)


def test_a_mesh_with_explicit_axes_keeps_its_devices():
    devices = np.array(jax.devices())[::-1].reshape(2, 4)
    mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    f = autoshard.parallelize(step, mesh=mesh, strategy="zero3+tensor")
    assert f.mesh.axis_types == (AxisType.Auto,) * 2
    np.testing.assert_array_equal(f.mesh.devices, devices)
    x = jax.device_put(data(), NamedSharding(mesh, P("data")))
    state = f.init(create, jax.random.key(0), step_args=(x,))
    _, loss = f(state, x)
    np.testing.assert_allclose(loss, step(jax.jit(create)(jax.random.key(0)), data())[1], rtol=1e-6)


def test_static_and_keyword_arguments():
    @autoshard.parallelize(strategy="dp", static_argnames=("power",))
    def f(x, power=2, *, scale):
        return jnp.sum(x**power) * scale["by"]

    x = jnp.arange(16.0).reshape(16, 1)
    assert f(x, scale={"by": 2.0}) == 2 * jnp.sum(x**2)
    assert f(x, 3, scale={"by": 2.0}) == 2 * jnp.sum(x**3)
    assert f(x, power=1, scale={"by": jnp.float32(1)}) == jnp.sum(x)
    with pytest.raises(StaticArgumentError, match="power"):
        f(x, [1], scale={"by": 2.0})
    with pytest.raises(OptionError, match="nothing"):
        autoshard.parallelize(lambda x: x, static_argnames=("nothing",))


def test_a_captured_array_is_planned():
    table = jnp.arange(64.0).reshape(16, 4)
    f = autoshard.parallelize(lambda x: x @ table.T, strategy="tensor")
    np.testing.assert_allclose(f(jnp.ones((2, 4))), jnp.ones((2, 4)) @ table.T)
    assert f.last_plan.leaf("captured/0").spec.axes == ("data",)


def test_ahead_of_time(planned):
    state = jax.eval_shape(create, jax.random.key(0))
    assert planned.plan(state, X).mesh_shape == {"data": 2, "model": 4}
    assert "sdy.sharding" in planned.lower(state, X).as_text()
    compiled = planned.compile(state, X)
    assert compiled.memory_analysis().temp_size_in_bytes > 0
    concrete = jax.jit(create)(jax.random.key(0))
    _, loss = compiled(concrete, data())
    np.testing.assert_allclose(loss, step(concrete, data())[1], rtol=1e-6)


def test_explanations(planned):
    with pytest.raises(NotPlannedError):
        planned.explain()
    planned.plan(jax.eval_shape(create, jax.random.key(0)), X)
    assert "column" in planned.explain("state/0/up")
    assert "state/0/down" in planned.explain()


def test_shard_batch(planned):
    planned.plan(jax.eval_shape(create, jax.random.key(0)), X)
    x = autoshard.shard_batch(data(), planned)
    assert x.sharding.spec == P("data")
    np.testing.assert_array_equal(x, data())
    again = autoshard.shard_batch({"x": data()}, planned.last_plan)
    assert again["x"].sharding == x.sharding
    whole = autoshard.shard_batch(data(), planned.mesh)
    assert whole.sharding.shard_shape(whole.shape) == (2, 8)


def test_traced_once_for_each_shape():
    traces = []

    @autoshard.parallelize(strategy="dp")
    def f(x):
        traces.append(x.shape)
        return x * 2

    for rows in (8, 8, 16, 8):
        f(jnp.ones((rows, 2)))
    assert traces == [(8, 2), (16, 2)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strategy": "zero9"}, StrategyError),
        ({"strategy": "dp@rows"}, StrategyError),
        ({"strategy": "dp+tensor"}, StrategyError),
        ({"mesh": "data=3"}, MeshError),
        ({"mesh": "data"}, MeshError),
        ({"mesh": 7}, MeshError),
    ],
)
def test_bad_options(options, error):
    with pytest.raises(error):
        autoshard.parallelize(step, **options)(jax.jit(create)(jax.random.key(0)), data())


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="static_argnames"):
        autoshard.parallelize(step)({"name": "text"}, data())
    with pytest.raises(OptionError, match="donate"):
        autoshard.parallelize(step, donate="never")

    def loses_a_moment(state, x):
        (params, opt_state), loss = step(state, x)
        return (params, opt_state[0]), loss

    with pytest.raises(StateStructureError, match="Mend it"):
        autoshard.parallelize(loses_a_moment).init(create, jax.random.key(0), step_args=(X,))
