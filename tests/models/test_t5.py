import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models
from autoshard.models.t5 import RelativeBias, relative_bucket

CONFIG = models.T5Config(
    vocab_size=31,
    input_length=12,
    target_length=8,
    hidden=24,
    intermediate=40,
    layers=2,
    decoder_layers=3,
    heads=4,
    head_size=8,
    buckets=8,
    max_distance=10,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def batch():
    inputs = jax.random.randint(jax.random.key(1), (2, 12), 1, CONFIG.vocab_size)
    targets = jax.random.randint(jax.random.key(2), (2, 8), 1, CONFIG.vocab_size)
    return inputs.at[1, 9:].set(0), targets


@pytest.fixture(scope="module", params=[False, True], ids=["relu", "gated"])
def case(request, batch):
    config = models.T5Config(
        **{
            name: getattr(CONFIG, name)
            for name in CONFIG.__dataclass_fields__
            if name not in ("gated", "tie_head")
        },
        gated=request.param,
        tie_head=not request.param,
    )
    shapes = jax.eval_shape(models.T5(config).init, jax.random.key(0), *batch)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes
    )
    return config, variables, jax.jit(models.T5(config).apply)


def test_matches_an_independent_numpy_forward(case, batch):
    config, variables, forward = case
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    expected = _reference(config, params, *map(np.asarray, batch))
    np.testing.assert_allclose(forward(variables, *batch), expected, atol=5e-4, rtol=0)


def test_targets_see_what_came_before_and_all_of_the_input(case, batch):
    _, variables, forward = case
    inputs, targets = batch
    before = forward(variables, inputs, targets)
    later = forward(variables, inputs, targets.at[:, 5:].set(1))
    np.testing.assert_array_equal(before[:, :5], later[:, :5])
    assert jnp.abs(before[:, 5:] - later[:, 5:]).max() > 0.01
    other = forward(variables, inputs.at[0, 11].set(1), targets)
    assert jnp.abs(before[0] - other[0]).max(-1).min() > 1e-4


def test_distances_share_buckets_as_published():
    """Section 2.1: 32 numbers, logarithmically up to an offset of 128, behind and ahead apart."""
    distance = jnp.arange(-300, 301)
    both = np.asarray(relative_bucket(distance, causal=False, buckets=32, max_distance=128))
    behind = np.asarray(relative_bucket(distance, causal=True, buckets=32, max_distance=128))
    for offset in (0, 1, 7, 8, 11, 12, 60, 127, 128, 299):
        exact = min(offset, 8)
        if offset >= 8:
            exact = min(15, 8 + int(8 * math.log(offset / 8) / math.log(128 / 8)))
        assert both[300 - offset] == exact
        assert both[300 + offset] == exact + (16 if offset else 0)
        exact = min(offset, 16)
        if offset >= 16:
            exact = min(31, 16 + int(16 * math.log(offset / 16) / math.log(128 / 16)))
        assert behind[300 - offset] == exact
        assert behind[300 + offset] == 0
    assert set(behind) == set(range(32))
    # The number of "no distance, ahead" is never given.
    assert set(both) == set(range(32)) - {16}


def test_padding_counts_in_neither_input_nor_loss(batch_of):
    spec = models.get("t5-tiny")
    batch = batch_of(spec, 2)
    batch["targets"] = jnp.maximum(batch["targets"], 1)
    params = jax.jit(spec.init)(jax.random.key(0))["params"]
    loss = jax.jit(spec.loss)
    padded = {name: jnp.pad(leaf, ((0, 0), (0, 5))) for name, leaf in batch.items()}
    np.testing.assert_allclose(loss(params, padded), loss(params, batch), rtol=1e-5)


def test_example_batches_keep_the_proportion():
    shapes = models.get("t5-base").example_batch(2, 256)
    assert {name: leaf.shape for name, leaf in shapes.items()} == {
        "inputs": (2, 256),
        "targets": (2, 64),
    }


def test_one_table_of_positions_for_each_stack():
    params = models.get("t5-small").param_shapes()
    for stack in ("encoder", "decoder"):
        assert params[stack]["relative_bias"]["table"]["embedding"].shape == (32, 8)


def _bias(config, params, length, causal):
    """From the table's rows; the buckets themselves are tested above."""
    bias = RelativeBias(config, causal).apply({"params": params["relative_bias"]}, length)
    assert isinstance(bias, jax.Array)
    return np.asarray(bias, np.float64)


def _reference(config, params, inputs, targets):
    padding = np.where(inputs != 0, 0.0, -1e9)[:, None, None, :]
    table = params["shared"]["embedding"]
    x = table[inputs]
    bias = _bias(config, params["encoder"], inputs.shape[1], causal=False) + padding
    for layer in range(config.layers):
        p = params["encoder"][f"layers_{layer}"]
        y = _rms_norm(x, p["attention_norm"])
        x = x + _attention(p["attention"], y, y, bias)
        x = x + _mlp(p["mlp"], _rms_norm(x, p["mlp_norm"]))
    encoded = _rms_norm(x, params["encoder"]["norm"])
    x = table[targets]
    bias = _bias(config, params["decoder"], targets.shape[1], causal=True)
    for layer in range(config.decoder_layers):
        p = params["decoder"][f"layers_{layer}"]
        y = _rms_norm(x, p["attention_norm"])
        x = x + _attention(p["attention"], y, y, bias)
        y = _rms_norm(x, p["cross_attention_norm"])
        x = x + _attention(p["cross_attention"], y, encoded, padding)
        x = x + _mlp(p["mlp"], _rms_norm(x, p["mlp_norm"]))
    x = _rms_norm(x, params["decoder"]["norm"])
    if config.tie_head:
        return x * config.hidden**-0.5 @ table.T
    return x @ params["lm_head"]["kernel"]


def _attention(p, x, source, bias):
    query = np.einsum("btd,dhk->bhtk", x, p["query"]["kernel"])
    key, value = (np.einsum("btd,dhk->bhtk", source, p[n]["kernel"]) for n in ("key", "value"))
    scores = query @ key.swapaxes(-1, -2) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhtk,hkd->btd", weights @ value, p["out"]["kernel"])


def _mlp(p, x):
    up = x @ p["up"]["kernel"]
    if "gate" not in p:
        return np.maximum(up, 0) @ p["down"]["kernel"]
    gate = x @ p["gate"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * up) @ p["down"]["kernel"]


def _rms_norm(x, p):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]
