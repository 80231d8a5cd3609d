import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models
from autoshard.models.llama import GroupedQueryAttention

CONFIG = models.LlamaConfig(
    vocab_size=31,
    max_positions=16,
    hidden=32,
    intermediate=40,
    layers=3,
    heads=4,
    kv_heads=2,
    scan_layers=False,
)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 16), 0, CONFIG.vocab_size)


@pytest.fixture(scope="module")
def variables(tokens):
    return _random_variables(models.Llama(CONFIG), tokens)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(models.Llama(CONFIG).apply)


def test_matches_an_independent_numpy_forward(forward, variables, tokens):
    logits = forward(variables, tokens)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    np.testing.assert_allclose(logits, _reference(params, np.asarray(tokens)), atol=2e-4, rtol=0)


def test_the_future_does_not_influence_the_past(forward, variables, tokens):
    changed = tokens.at[:, 9:].set((tokens[:, 9:] + 1) % CONFIG.vocab_size)
    before, after = forward(variables, tokens), forward(variables, changed)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert jnp.abs(before[:, 9:] - after[:, 9:]).max() > 0.1


def test_shared_key_value_heads_equal_repeated_ones():
    """Grouped-query attention is multi-head attention whose groups hold equal key/value heads."""
    grouped = GroupedQueryAttention(CONFIG)
    multi_head = GroupedQueryAttention(dataclasses.replace(CONFIG, kv_heads=CONFIG.heads))
    x = jax.random.normal(jax.random.key(0), (2, 16, CONFIG.hidden))
    table = models.rope_table(jnp.arange(16), CONFIG.head_size, base=CONFIG.rope_base)
    variables = _random_variables(grouped, x, table)
    repeated = copy.deepcopy(variables)
    for name in ("key", "value"):
        kernel = repeated["params"][name]["kernel"]
        repeats = CONFIG.heads // CONFIG.kv_heads
        repeated["params"][name]["kernel"] = jnp.repeat(kernel, repeats, axis=1)
    np.testing.assert_allclose(
        jax.jit(grouped.apply)(variables, x, table),
        jax.jit(multi_head.apply)(repeated, x, table),
        atol=1e-5,
    )


def test_tying_the_head_uses_the_embedding(forward, variables, tokens):
    tied = models.Llama(dataclasses.replace(CONFIG, tie_head=True))
    params = dict(variables["params"])
    embedding = params["embed_tokens"]["embedding"]
    untied = {**params, "lm_head": {"kernel": embedding.T}}
    del params["lm_head"]
    np.testing.assert_allclose(
        jax.jit(tied.apply)({"params": params}, tokens),
        forward({"params": untied}, tokens),
        atol=1e-5,
    )


def _random_variables(module, *args):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype) for s in leaves]
    return jax.tree.unflatten(structure, drawn)


def _reference(params, tokens):
    length, size = tokens.shape[1], CONFIG.head_size
    # Rotation as multiplication by a complex number of modulus one.
    frequencies = CONFIG.rope_base ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * np.arange(length)[:, None] * frequencies)

    def rotate(x):
        z = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    allowed = np.tril(np.ones((length, length), bool))
    x = params["embed_tokens"]["embedding"][tokens]
    for layer in range(CONFIG.layers):
        p = params[f"layers_{layer}"]
        y = _rms_norm(x, p["input_norm"])
        query, key, value = (
            np.einsum("btd,dhk->bhtk", y, p["attention"][name]["kernel"])
            for name in ("query", "key", "value")
        )
        key, value = (np.repeat(t, CONFIG.heads // CONFIG.kv_heads, 1) for t in (key, value))
        scores = rotate(query) @ rotate(key).swapaxes(-1, -2) / np.sqrt(size)
        scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("bhtk,hkd->btd", weights @ value, p["attention"]["out"]["kernel"])
        y = _rms_norm(x, p["post_attention_norm"])
        gate = y @ p["mlp"]["gate"]["kernel"]
        hidden = gate / (1 + np.exp(-gate)) * (y @ p["mlp"]["up"]["kernel"])
        x = x + hidden @ p["mlp"]["down"]["kernel"]
    return _rms_norm(x, params["norm"]) @ params["lm_head"]["kernel"]


def _rms_norm(x, p):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_epsilon) * p["scale"]
