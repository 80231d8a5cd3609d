import jax
import jax.numpy as jnp
import numpy as np
import optax

from autoshard import models


def _batch(spec, batch):
    shapes = spec.example_batch(batch)
    return {
        "images": jax.random.normal(jax.random.key(1), shapes["images"].shape),
        "labels": jax.random.randint(jax.random.key(2), shapes["labels"].shape, 0, 16),
    }


def test_training_updates_the_running_statistics():
    spec = models.get("resnet-tiny")
    training = models.make_training(spec, optax.sgd(0.1, momentum=0.9))
    state = jax.jit(training.create_state)(jax.random.key(0))
    batch = _batch(spec, 8)
    new_state, metrics = jax.jit(training.train_step)(state, batch)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert metrics["loss"].dtype == jnp.float32

    _, captured = jax.jit(
        lambda variables: spec.module.apply(
            variables, batch["images"], train=True, capture_intermediates=True, mutable=True
        )
    )({"params": state.params, **state.collections})
    activations = captured["intermediates"]["stem_conv"]["__call__"][0]
    old, new = (s.collections["batch_stats"]["stem_norm"]["mean"] for s in (state, new_state))
    expected = 0.9 * old + 0.1 * activations.mean((0, 1, 2))
    np.testing.assert_allclose(new, expected, atol=1e-6)


def test_evaluation_treats_each_image_alone():
    spec = models.get("resnet-tiny")
    variables = jax.jit(spec.init)(jax.random.key(0))
    images = _batch(spec, 4)["images"]
    forward = jax.jit(spec.module.apply)
    together, alone = forward(variables, images), forward(variables, images[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)


def test_blocks_start_as_the_identity():
    """With a zero scale in its last norm, a block without projection passes its input on."""
    spec = models.get("resnet-tiny", blocks=(2,))
    shallow = models.get("resnet-tiny", blocks=(1,))
    variables = jax.jit(spec.init)(jax.random.key(0))
    images = _batch(spec, 2)["images"]
    shallow_variables = {
        collection: {k: v for k, v in tree.items() if not k.startswith("stage_0_block_1")}
        for collection, tree in variables.items()
    }
    np.testing.assert_allclose(
        jax.jit(spec.module.apply)(variables, images),
        jax.jit(shallow.module.apply)(shallow_variables, images),
        atol=1e-5,
    )


def test_the_published_shape_halves_the_resolution_five_times():
    spec = models.get("resnet-50")
    batch = spec.example_batch(2)
    variables = jax.eval_shape(spec.init, jax.random.key(0))
    _, captured = jax.eval_shape(
        lambda v, x: spec.module.apply(v, x, capture_intermediates=True), variables, batch["images"]
    )
    last = captured["intermediates"]["stage_3_block_2"]["__call__"][0]
    assert last.shape == (2, 7, 7, 2048)
