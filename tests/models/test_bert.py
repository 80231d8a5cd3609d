import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from autoshard import models

CONFIG = models.BertConfig(
    vocab_size=31, max_positions=12, hidden=24, intermediate=40, layers=2, heads=4, dropout=0.0
)


@pytest.fixture(scope="module")
def inputs():
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, CONFIG.vocab_size)
    segments = (jnp.arange(12)[None, :] > jnp.array([[5], [7], [2]])).astype(jnp.int32)
    mask = (jnp.arange(12)[None, :] < jnp.array([[12], [9], [11]])).astype(jnp.int32)
    return tokens, segments, mask, jnp.array([[1, 4], [8, 2], [3, 3]])


@pytest.fixture(scope="module")
def variables(inputs):
    shapes = jax.eval_shape(models.Bert(CONFIG).init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)


def test_matches_an_independent_numpy_forward(variables, inputs):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    actual = jax.jit(models.Bert(CONFIG).apply)(variables, *inputs)
    for a, b in zip(actual, _reference(params, *map(np.asarray, inputs)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=0)


def test_padding_is_not_seen(variables, inputs):
    forward = jax.jit(models.Bert(CONFIG).apply)
    tokens, segments, mask, places = inputs
    other = jnp.where(mask == 1, tokens, (tokens + 1) % CONFIG.vocab_size)
    for a, b in zip(
        forward(variables, *inputs), forward(variables, other, segments, mask, places), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_loss_leaves_out_positions_without_weight(batch_of, params_of):
    spec = models.get("bert-tiny")
    batch = batch_of(spec, 4)
    batch["masked_weights"] = batch["masked_weights"].at[:, 0].set(1)
    params = params_of(spec.param_shapes())
    loss = jax.jit(spec.loss)
    unasked = batch["masked_weights"] == 0
    changed = batch | {"masked_targets": jnp.where(unasked, 7, batch["masked_targets"])}
    np.testing.assert_array_equal(loss(params, changed), loss(params, batch))
    nothing = batch | {"masked_weights": jnp.zeros_like(batch["masked_weights"])}
    assert 0.5 < loss(params, nothing) < 1.0  # the next sentence alone: log 2 at the start


def test_a_sequence_asks_for_15_percent_of_its_tokens():
    shapes = models.get("bert-base").example_batch(2)
    assert shapes["masked_positions"].shape == (2, 76)
    assert models.get("bert-base").example_batch(2, 3)["masked_targets"].shape == (2, 1)


def test_too_long_a_sequence_is_refused():
    spec = models.get("bert-tiny")
    with pytest.raises(models.SequenceTooLongError, match="has 65 tokens"):
        jax.eval_shape(spec.loss, spec.param_shapes(), spec.example_batch(2, 65))


def _reference(params, tokens, segments, mask, places):
    x = (
        params["word_embeddings"]["embedding"][tokens]
        + params["segment_embeddings"]["embedding"][segments]
        + params["position_embeddings"]["embedding"][: tokens.shape[1]]
    )
    x = _layer_norm(x, params["embeddings_norm"])
    for layer in range(CONFIG.layers):
        p = params[f"layers_{layer}"]
        query, key, value = (
            np.einsum("btd,dhk->bhtk", x, p["attention"][name]["kernel"])
            + p["attention"][name]["bias"][None, :, None, :]
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(CONFIG.head_size)
        # A padded query sees nothing, so its weights are equal; nothing reads it.
        scores = np.where(mask[:, None, None, :] * mask[:, None, :, None] > 0, scores, -1e30)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bhtk,hkd->btd", weights @ value, p["attention"]["out"]["kernel"])
        x = _layer_norm(x + y + p["attention"]["out"]["bias"], p["attention_norm"])
        y = _dense(_gelu(_dense(x, p["up"])), p["down"])
        x = _layer_norm(x + y, p["mlp_norm"])
    order = _dense(np.tanh(_dense(x[:, 0], params["pooler"])), params["next_sentence"])
    x = np.take_along_axis(x, places[..., None], 1)
    x = _layer_norm(_gelu(_dense(x, params["transform"])), params["transform_norm"])
    return x @ params["word_embeddings"]["embedding"].T + params["token_bias"], order


def _gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + CONFIG.norm_epsilon) * p["scale"] + p["bias"]
