import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoshard import models

LANGUAGE_MODELS = ["gpt-tiny", "llama-tiny"]
# By default only what no other test trains, and what compiles quickly.
LEARNING = [name for name in models.names() if name.endswith("-tiny")]
QUICK = ["dlrm-tiny", "t5-tiny"]
STACKED = ["moe-tiny", "bert-tiny", "vit-tiny"]
SLOW = [name for name in LEARNING if name not in QUICK]


def _batch(spec, batch=4, seq=32):
    tokens = jax.random.randint(jax.random.key(7), (batch, seq + 1), 0, spec.config.vocab_size)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}


def _largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_loss_starts_at_the_logarithm_of_the_vocabulary(name):
    spec = models.get(name)
    loss = jax.jit(spec.loss)(jax.jit(spec.init)(jax.random.key(0))["params"], _batch(spec))
    assert loss.dtype == jnp.float32
    assert abs(float(loss) - math.log(spec.config.vocab_size)) < 0.05


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("gpt-tiny", "h"),
        ("llama-tiny", "layers"),
        *(pytest.param(n, "layers", marks=pytest.mark.slow) for n in SLOW if n in STACKED),
    ],
)
def test_scanned_and_unrolled_layers_agree(name, layers, batch_of, params_of):
    unrolled, scanned = (models.get(name, layers=2, scan_layers=scan) for scan in (False, True))
    batch = batch_of(unrolled, 2)
    params = params_of(unrolled.param_shapes())
    stacked = models.stack_layers(params, layers)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, scanned.param_shapes())

    loss, gradient = jax.jit(jax.value_and_grad(unrolled.loss))(params, batch)
    scan_loss, scan_gradient = jax.jit(jax.value_and_grad(scanned.loss))(stacked, batch)
    np.testing.assert_allclose(scan_loss, loss, rtol=1e-6)
    difference = jax.tree.map(jnp.subtract, models.unstack_layers(scan_gradient, layers), gradient)
    assert _largest(difference) < 5e-6 * _largest(gradient)


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [("full", False), pytest.param("dots", True, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_remat_changes_no_gradient(name, remat, scan_layers):
    plain, rematerialized = (
        models.get(name, scan_layers=scan_layers, remat=r) for r in ("none", remat)
    )
    batch = _batch(plain)
    # One set of parameters for both: modules under remat draw other numbers.
    params = jax.jit(plain.init)(jax.random.key(0))["params"]
    assert jax.tree.structure(rematerialized.param_shapes()) == jax.tree.structure(params)
    jaxpr = str(jax.make_jaxpr(jax.grad(rematerialized.loss))(params, batch))
    assert "remat2" in jaxpr or "checkpoint" in jaxpr

    gradients = jax.jit(lambda p, b: [jax.grad(s.loss)(p, b) for s in (plain, rematerialized)])(
        params, batch
    )
    difference = jax.tree.map(jnp.subtract, *gradients)
    assert _largest(difference) < 5e-6 * _largest(gradients[0])


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_training_learns_a_repeated_batch(name):
    spec = models.get(name)
    training = models.make_training(spec, optax.adamw(3e-3))
    state = jax.jit(training.create_state)(jax.random.key(0))
    step = jax.jit(training.train_step, donate_argnums=0)
    batch = _batch(spec, batch=2, seq=16)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 30
    assert losses[-1] < losses[0] / 2


def test_dropout_follows_the_step_and_the_seed():
    spec = models.get("gpt-tiny", dropout=0.5)
    batch = _batch(spec)
    losses = {}
    for seed in (0, 1):
        training = models.make_training(spec, optax.sgd(0.0), seed=seed)
        state = jax.jit(training.create_state)(jax.random.key(0))
        step = jax.jit(training.train_step)
        next_state, first = step(state, batch)
        losses[seed] = [float(first["loss"]), float(step(next_state, batch)[1]["loss"])]
        assert float(step(state, batch)[1]["loss"]) == losses[seed][0]
    # A learning rate of zero: all that differs is the mask.
    assert len({*losses[0], *losses[1]}) == 4


def test_cross_entropy_is_float32_and_matches_its_definition():
    logits = jax.random.normal(jax.random.key(0), (3, 5, 11)).astype(jnp.bfloat16)
    labels = jax.random.randint(jax.random.key(1), (3, 5), 0, 11)
    loss = models.cross_entropy(logits, labels)
    assert loss.dtype == jnp.float32
    wide = np.asarray(logits, np.float64)
    picked = np.take_along_axis(wide, np.asarray(labels)[..., None], -1)[..., 0]
    expected = (np.log(np.exp(wide).sum(-1)) - picked).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in LEARNING],
)
def test_every_parameter_learns(name, batch_of, state_of):
    """Gradients are finite and nonzero, and in bfloat16 about the same."""
    spec = models.get(name)
    half = models.get(name, dtype="bfloat16")
    # An example of a recommender is six numbers: rounding averages out over many of them alone.
    batch = batch_of(spec, 64 if name == "dlrm-tiny" else 4)
    optimizer = optax.sgd(1.0, momentum=0.9)  # its state after one step is the gradient
    gradients = {}
    for s in (spec, half):
        training = models.make_training(s, optimizer)
        state = state_of(training)
        new, metrics = jax.jit(training.train_step)(state, batch)
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(new.params)} == {"float32"}
        assert metrics["loss"].dtype == jnp.float32
        gradients[s.config.dtype.name] = new.opt_state[0].trace
    scale = _largest(gradients["float32"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["float32"]):
        assert jnp.isfinite(leaf).all()
        # What is added to all keys of a softmax alike has no effect.
        name_of = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name_of.endswith("key/bias"):
            assert jnp.abs(leaf).max() > 1e-6 * scale, name_of
    # As a vector, for rounding may move a single activation over the edge of a ReLU.
    difference = jax.tree.map(jnp.subtract, *gradients.values())
    relative = optax.tree.norm(difference) / optax.tree.norm(gradients["float32"])
    assert relative < 0.1


def test_example_batches():
    batch = models.get("gpt2").example_batch(8)
    assert {name: (leaf.shape, leaf.dtype.name) for name, leaf in batch.items()} == {
        "inputs": ((8, 1024), "int32"),
        "targets": ((8, 1024), "int32"),
    }
    assert models.get("gpt2").example_batch(8, 64)["inputs"].shape == (8, 64)
    images = models.get("resnet-50").example_batch(4)
    assert images["images"].shape == (4, 224, 224, 3)
    with pytest.raises(models.ModelConfigError, match="classifies images: leave out seq=5"):
        models.get("resnet-50").example_batch(4, 5)
