"""ViT and U-Net."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoshard import models
from autoshard.models._specs._diffusion import _kept_variance
from autoshard.models.unet import SelfAttention, TimeEmbedding


def test_vit_depends_on_the_order_of_patches_by_their_positions_alone(batch_of, params_of):
    spec = models.get("vit-tiny")
    params = params_of(spec.param_shapes())
    images = batch_of(spec, 2)["images"]
    swapped = jnp.concatenate([images[:, :, 4:8], images[:, :, :4], images[:, :, 8:]], axis=2)
    forward = jax.jit(spec.module.apply)
    logits = forward({"params": params}, images)
    assert jnp.abs(logits - forward({"params": params}, swapped)).max() > 1e-4
    params["position_embedding"] = jnp.zeros_like(params["position_embedding"])
    np.testing.assert_allclose(
        forward({"params": params}, images), forward({"params": params}, swapped), atol=1e-5
    )


def test_vit_has_196_patches_and_a_class_token():
    params = models.get("vit-large").param_shapes()
    assert params["position_embedding"].shape == (1, 197, 1024)
    assert params["patch_embedding"]["kernel"].shape == (16, 16, 3, 1024)
    with pytest.raises(models.ModelConfigError, match="image_size=224 is not a multiple of patch"):
        models.get("vit-base", patch_size=15)


def test_vit_drops_only_with_a_key(batch_of, params_of):
    spec = models.get("vit-tiny", dropout=0.5, layers=1)
    params = params_of(spec.param_shapes())
    batch = batch_of(spec, 2)
    loss = jax.jit(spec.loss)
    assert loss(params, batch) == loss(params, batch)
    first, second = (loss(params, batch, {"dropout": jax.random.key(i)}) for i in range(2))
    assert first != second


def test_unet_uses_every_skip_and_the_step_of_each_image(batch_of, params_of):
    spec = models.get("unet-tiny")
    params = params_of(spec.param_shapes())
    images = batch_of(spec, 2)["images"]
    # Each from below and a skip: the stem, two levels of one block, the step down between them.
    for name, channels in {"up_1_0": 64, "up_1_1": 48, "up_0_0": 48, "up_0_1": 32}.items():
        assert params[name]["block"]["norm_0"]["scale"].shape == (channels,)
    forward = jax.jit(spec.module.apply)
    first, other = (
        forward({"params": params}, images, jnp.array([3, step])) for step in (700, 701)
    )
    np.testing.assert_array_equal(first[0], other[0])
    assert jnp.abs(first[1] - other[1]).max() > 1e-4


def test_unet_attention_is_that_of_every_pixel_to_every_other():
    config = dataclasses.replace(models.get("unet-tiny").config, groups=4)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    shapes = jax.eval_shape(SelfAttention(config).init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape), s.dtype), shapes
    )
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    y = np.asarray(x, np.float64).reshape(2, 12, 4, 2)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + 1e-6)
    y = y.reshape(2, 12, 8) * p["norm"]["scale"] + p["norm"]["bias"]
    query, key, value = (y @ p[n]["kernel"] + p[n]["bias"] for n in ("query", "key", "value"))
    weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(8))
    y = weights / weights.sum(-1, keepdims=True) @ value @ p["out"]["kernel"] + p["out"]["bias"]
    actual = jax.jit(SelfAttention(config).apply)(variables, x)
    np.testing.assert_allclose(actual, x + y.reshape(x.shape), atol=1e-4)


def test_time_embedding_tells_all_steps_apart(params_of):
    module = TimeEmbedding(models.get("unet-tiny").config)
    steps = jnp.arange(1000)
    shapes = jax.eval_shape(module.init, jax.random.key(0), steps[:1])["params"]
    variables = {"params": params_of(shapes)}
    embedded = np.asarray(jax.jit(module.apply)(variables, steps))
    assert embedded.shape == (1000, 64)
    assert len(np.unique(embedded, axis=0)) == 1000


def test_noise_grows_from_almost_nothing_to_almost_all():
    kept = _kept_variance(1000)
    assert (np.diff(kept) < 0).all()
    np.testing.assert_allclose(kept[[0, -1]], [0.9999, 4.04e-5], rtol=1e-2)


def test_diffusion_needs_a_key_and_draws_anew_in_each_step(batch_of, state_of):
    spec = models.get("unet-tiny")
    batch = batch_of(spec, 2)
    with pytest.raises(models.ModelError, match=r"pass rngs=\{'noise'"):
        spec.loss(spec.param_shapes(), batch)
    assert spec.rng_names == ("noise",)
    assert models.get("ddpm-cifar10").rng_names == ("noise", "dropout")
    training = models.make_training(spec, optax.sgd(0.0))
    state = state_of(training)
    # A network that predicts no noise is off by its variance, one.
    head = jax.tree.map(jnp.zeros_like, state.params["head"])
    state = state.replace(params=state.params | {"head": head})
    step = jax.jit(training.train_step)
    next_state, first = step(state, batch)
    assert first["loss"] != step(next_state, batch)[1]["loss"]
    assert first["loss"] == step(state, batch)[1]["loss"]
    assert 0.8 < float(first["loss"]) < 1.2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 9}, "image_size=9 is not a multiple of 2, by which multipliers"),
        ({"width": 12}, "width=12 must be even and a multiple of groups=8"),
        ({"multipliers": ()}, "needs at least one resolution"),
    ],
)
def test_contradictory_unets_are_refused(overrides, message):
    with pytest.raises(models.ModelConfigError, match=message):
        models.get("unet-tiny", **overrides)
