import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from autoshard import models

NAME = "llama-nnx-tiny"


def _to_linen(params, scan):
    """The same parameters under the names of the Linen model."""
    layers = params["layers"]
    named = {"layers": layers} if scan else {f"layers_{i}": layers[i] for i in layers}
    return {**{name: params[name] for name in params if name != "layers"}, **named}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"scan_layers": False, "tie_head": True},
        {"remat": "full"},
        {"scan_layers": False, "remat": "dots"},
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_linen_model(overrides, batch_of, params_of):
    nnx_spec, spec = (models.get(name, **overrides) for name in (NAME, "llama-tiny"))
    params = params_of(nnx_spec.param_shapes())
    batch = batch_of(spec, 2, 16)
    scan = spec.config.scan_layers
    loss, gradient = jax.jit(jax.value_and_grad(nnx_spec.loss))(params, batch)
    expected, expected_gradient = jax.jit(jax.value_and_grad(spec.loss))(
        _to_linen(params, scan), batch
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    actual = _to_linen(gradient, scan)
    assert jax.tree.structure(actual) == jax.tree.structure(expected_gradient)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * scale)
    remat = "remat2" in str(jax.make_jaxpr(jax.grad(nnx_spec.loss))(params, batch))
    assert remat == ("remat" in overrides)


def test_the_step_with_an_nnx_optimizer_does_what_the_pure_one_does(batch_of):
    spec = models.get(NAME)
    assert isinstance(spec, models.NNXLanguageModelSpec)
    batch = batch_of(spec, 2, 16)
    pure = models.make_training(spec, optax.adamw(1e-3))
    state = jax.jit(pure.create_state)(jax.random.key(0))
    step = jax.jit(pure.train_step)
    training = models.make_nnx_training(spec, optax.adamw(1e-3))
    model, optimizer = training.create(jax.random.key(0))
    nnx_step = nnx.jit(training.train_step)
    for _ in range(2):
        state, metrics = step(state, batch)
        nnx_metrics = nnx_step(model, optimizer, batch)
        np.testing.assert_allclose(nnx_metrics["loss"], metrics["loss"], rtol=1e-6)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert int(optimizer.step[...]) == 2


def test_states_of_two_trainings_have_the_same_structure():
    spec, same = models.get(NAME), models.get(NAME)
    optimizer = optax.sgd(0.1)
    structures = {
        jax.tree.structure(
            jax.eval_shape(models.make_training(s, optimizer).create_state, jax.random.key(0))
        )
        for s in (spec, same)
    }
    assert len(structures) == 1


def test_unrolled_layers_are_numbered():
    params = models.get(NAME, scan_layers=False, layers=3).param_shapes()
    assert list(params["layers"]) == [0, 1, 2]
