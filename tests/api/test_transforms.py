"""Calls under JAX's own transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import autoshard


@pytest.fixture(params=["dp", "zero3+tensor"])
def planned_loss(request, loss_function):
    mesh = "data=8" if request.param == "dp" else "data=2,model=4"
    return autoshard.parallelize(loss_function, mesh=mesh, strategy=request.param)


def test_jit(planned_loss, loss_function, create_state, batch):
    state = create_state(jax.random.key(0))
    expected = float(loss_function(state, batch))
    np.testing.assert_allclose(float(jax.jit(planned_loss)(state, batch)), expected, rtol=1e-5)


def test_gradient(planned_loss, loss_function, create_state, batch, same):
    state = create_state(jax.random.key(0))
    same(jax.grad(planned_loss)(state, batch), jax.grad(loss_function)(state, batch))
    checkpointed = jax.grad(jax.checkpoint(planned_loss))
    same(checkpointed(state, batch), jax.grad(loss_function)(state, batch))
    same(jax.jit(checkpointed)(state, batch), jax.grad(loss_function)(state, batch))


def test_gradient_with_respect_to_captured(loss_function, create_state, batch, same):
    def outer(state):
        return autoshard.parallelize(lambda batch: loss_function(state, batch))(batch)

    state = create_state(jax.random.key(0))
    same(jax.grad(outer)(state), jax.grad(lambda s: loss_function(s, batch))(state))
    same(jax.jit(jax.grad(outer))(state), jax.grad(lambda s: loss_function(s, batch))(state))


def test_vmap(planned_loss, loss_function, create_state, batch, batch_of):
    state = create_state(jax.random.key(0))
    batches = jax.tree.map(lambda *x: np.stack(x), batch, batch_of(seed=1))
    expected = [float(loss_function(state, batch_of(seed=i))) for i in (0, 1)]
    got = jax.vmap(planned_loss, in_axes=(None, 0))(state, batches)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5)


def test_disable_jit(step_function, create_state, batch, on_one_device, same):
    seen = []

    @autoshard.parallelize
    def step(state, batch):
        seen.append(isinstance(state["w"], Tracer))
        return step_function(state, batch)

    with jax.disable_jit():
        result = step(create_state(jax.random.key(0)), batch)
        assert step.init(create_state, jax.random.key(0), step_args=(batch,))["w"].shape
    same(result, on_one_device)
    assert seen == [False]


def test_eval_shape(step_function, create_state, batch):
    step = autoshard.parallelize(step_function)
    state = create_state(jax.random.key(0))
    got, expected = (jax.eval_shape(f, state, batch) for f in (step, step_function))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )


def test_inside_a_scan_of_steps(step_function, create_state, batch, batch_of, same):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    batches = jax.tree.map(lambda *x: np.stack(x), *(batch_of(seed=i) for i in range(4)))
    run = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))
    state = create_state(jax.random.key(0))
    same(run(state, batches), jax.lax.scan(step_function, state, batches))
    assert not state["w"].is_deleted()


def test_custom_derivatives_hold(batch, same):
    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (7 * g,))

    @jax.custom_jvp
    def flat(x):
        return jnp.sign(x)

    flat.defjvp(lambda primals, tangents: (jnp.sign(primals[0]), 3 * tangents[0]))

    def loss(w, x):
        return jnp.mean(straight_through(x @ w) + flat(x @ w))

    w = jnp.ones((16, 8))
    planned = autoshard.parallelize(loss, strategy="dp")
    expected = jax.grad(loss)(w, batch["x"])
    assert float(jnp.max(jnp.abs(expected))) > 0
    same(jax.grad(planned)(w, batch["x"]), expected)
    # The gradient inside the planned function uses them as well.
    inside = autoshard.parallelize(lambda w, x: jax.grad(loss)(w, x), strategy="dp")
    same(inside(w, batch["x"]), expected)
