import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models

CONFIG = models.GPT2Config(
    vocab_size=31, max_positions=16, hidden=24, layers=3, heads=4, dropout=0.0
)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 16), 0, CONFIG.vocab_size)


@pytest.fixture(scope="module")
def variables(tokens):
    """Random everywhere, biases and layer-norm scales too, so that no term is invisible."""
    shapes = jax.eval_shape(models.GPT2(CONFIG).init, jax.random.key(0), tokens)
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype) for s in leaves]
    return jax.tree.unflatten(structure, drawn)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(models.GPT2(CONFIG).apply)


def test_matches_an_independent_numpy_forward(forward, variables, tokens):
    logits = forward(variables, tokens)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    np.testing.assert_allclose(logits, _reference(params, np.asarray(tokens)), atol=2e-4, rtol=0)


def test_the_future_does_not_influence_the_past(forward, variables, tokens):
    changed = tokens.at[:, 9:].set((tokens[:, 9:] + 1) % CONFIG.vocab_size)
    before, after = forward(variables, tokens), forward(variables, changed)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert jnp.abs(before[:, 9:] - after[:, 9:]).max() > 0.1


def test_dropout_applies_only_when_asked_for(forward, variables, tokens):
    model = models.GPT2(dataclasses.replace(CONFIG, dropout=0.5))
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, tokens), forward(variables, tokens)
    )

    @jax.jit
    def noisy(key):
        return model.apply(variables, tokens, deterministic=False, rngs={"dropout": key})

    first, second = (noisy(key) for key in jax.random.split(jax.random.key(3)))
    assert jnp.abs(first - second).max() > 0.1


def test_too_long_a_sequence_is_refused(variables):
    with pytest.raises(models.SequenceTooLongError, match=r"has 17 tokens.*set max_positions=17"):
        jax.eval_shape(models.GPT2(CONFIG).apply, variables, jnp.zeros((1, 17), jnp.int32))


def test_logits_have_the_compute_type(variables, tokens):
    model = models.GPT2(dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert jax.eval_shape(model.apply, variables, tokens).dtype == jnp.bfloat16


def _reference(params, tokens):
    length = tokens.shape[1]
    x = params["wte"]["embedding"][tokens] + params["wpe"]["embedding"][:length]
    allowed = np.tril(np.ones((length, length), bool))
    for layer in range(CONFIG.layers):
        p = params[f"h_{layer}"]
        y = _layer_norm(x, p["ln_1"])
        query, key, value = (
            np.einsum("btd,dhk->bhtk", y, p["attn"][name]["kernel"])
            + p["attn"][name]["bias"][None, :, None, :]
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(CONFIG.head_size)
        scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bhtk,hkd->btd", weights @ value, p["attn"]["out"]["kernel"])
        x = x + y + p["attn"]["out"]["bias"]
        y = _layer_norm(x, p["ln_2"]) @ p["mlp_fc"]["kernel"] + p["mlp_fc"]["bias"]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ p["mlp_proj"]["kernel"] + p["mlp_proj"]["bias"]
    return _layer_norm(x, params["ln_f"]) @ params["wte"]["embedding"].T


def _layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + CONFIG.norm_epsilon) * p["scale"] + p["bias"]
