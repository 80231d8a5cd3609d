import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models
from autoshard.models.mixtral import SparseMLP, load_balancing_loss, route

CONFIG = models.MixtralConfig(
    vocab_size=31,
    max_positions=16,
    hidden=16,
    intermediate=24,
    layers=2,
    heads=4,
    kv_heads=2,
    experts=4,
    experts_per_token=2,
    capacity_factor=2.0,  # experts / experts_per_token: no token is ever dropped
)


@pytest.fixture(scope="module")
def activations():
    return jax.random.normal(jax.random.key(1), (3, 10, CONFIG.hidden))


def _variables(config, x):
    shapes = jax.eval_shape(SparseMLP(config).init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape), s.dtype), shapes)


def test_each_token_gets_the_weighted_sum_of_its_best_experts(activations):
    """Against a loop over tokens and experts in numpy."""
    variables = _variables(CONFIG, activations)
    actual = jax.jit(SparseMLP(CONFIG).apply)(variables, activations)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    experts = params["experts"]
    expected = np.zeros(activations.shape)
    for place in np.ndindex(*activations.shape[:2]):
        x = np.asarray(activations[place], np.float64)
        logits = x @ params["router"]["kernel"]
        best = np.argsort(-logits)[: CONFIG.experts_per_token]
        weights = np.exp(logits[best]) / np.exp(logits[best]).sum()
        for expert, weight in zip(best, weights, strict=True):
            gate = x @ experts["gate"][expert]
            hidden = gate / (1 + np.exp(-gate)) * (x @ experts["up"][expert])
            expected[place] += weight * (hidden @ experts["down"][expert])
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_expert_weights_are_stacked_along_a_first_dimension():
    params = models.get("mixtral-8x7b", scan_layers=False).param_shapes()
    experts = params["layers_0"]["moe"]["experts"]
    assert {name: leaf.shape for name, leaf in experts.items()} == {
        "gate": (8, 4096, 14336),
        "up": (8, 4096, 14336),
        "down": (8, 14336, 4096),
    }


def test_a_full_expert_turns_tokens_away_second_choices_first():
    # Three tokens prefer expert 0; token 3 prefers expert 1 and would take 0 second.
    best = jnp.array([[0, 0, 0, 1]])
    second = jnp.array([[1, 2, 2, 0]])
    probabilities = 0.6 * jax.nn.one_hot(best, 3) + 0.3 * jax.nn.one_hot(second, 3)
    chosen, combine = route(probabilities, experts_per_token=2, capacity=2)
    np.testing.assert_array_equal(chosen.sum(-1), [[2, 2, 2, 2]])
    # Expert 0 has room for the first choices of tokens 0 and 1 alone.
    np.testing.assert_allclose(combine[0, :, 0].sum(-1), [2 / 3, 2 / 3, 0, 0], rtol=1e-6)
    # Expert 1: the first choice of token 3 comes before the second choice of token 0.
    np.testing.assert_array_equal(combine[0, 3, 1] > 0, [True, False])
    np.testing.assert_array_equal(combine[0, 0, 1] > 0, [False, True])
    # No place is given twice.
    assert ((combine > 0).sum(1) <= 1).all()


def test_a_token_that_is_turned_away_everywhere_passes_by(activations):
    config = dataclasses.replace(CONFIG, experts_per_token=1, capacity_factor=0.4)
    assert config.capacity(10) == 1
    variables = _variables(config, activations)
    result = jax.jit(SparseMLP(config).apply)(variables, activations)
    rows = np.asarray((result != 0).any(-1).sum(1))
    assert ((rows >= 1) & (rows <= config.experts)).all()


@pytest.mark.parametrize(("length", "factor", "capacity"), [(1024, 1.25, 320), (3, 9.0, 3)])
def test_capacity(length, factor, capacity):
    config = models.get("moe-8x", capacity_factor=factor).config
    assert config.capacity(length) == capacity


def test_load_balancing_is_least_when_all_experts_get_as_much():
    even = jnp.full((2, 8, 4), 0.25)
    chosen = jax.nn.one_hot(jnp.arange(16).reshape(2, 8) % 4, 4)
    np.testing.assert_allclose(load_balancing_loss(even, chosen), 1.0)
    one = jax.nn.one_hot(jnp.zeros((2, 8), jnp.int32), 4)
    np.testing.assert_allclose(load_balancing_loss(one, one), 4.0)


@pytest.mark.parametrize("scan", [False, True])
def test_the_training_loss_holds_the_mean_over_the_layers(scan, batch_of):
    batch = batch_of(models.get("moe-tiny"), 2, 16)
    losses = []
    for weight in (0.0, 1.0):
        spec = models.get("moe-tiny", scan_layers=scan, balance_weight=weight)
        losses.append(jax.jit(spec.loss)(jax.jit(spec.init)(jax.random.key(0))["params"], batch))
    # At the start the router hardly prefers any expert: each layer says about two.
    assert 1.9 < losses[1] - losses[0] < 2.2


def test_variables_are_parameters_alone():
    shapes = jax.eval_shape(models.get("moe-tiny").init, jax.random.key(0))
    assert set(shapes) == {"params"}
