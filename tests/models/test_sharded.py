"""Every model on a mesh of eight devices: the numbers of one device, by every strategy."""

import functools

import jax
import numpy as np
import optax
import pytest

import autoshard
from autoshard import models

TINY = [name for name in models.names() if name.endswith("-tiny")]
STRATEGIES = ["dp", "zero3", "tensor", "zero3+tensor"]
# What runs by default: the kinds of model that the tests of the recipes do not know, once each.
SAMPLE = {("llama-nnx-tiny", "zero3+tensor")}
CASES = [
    pytest.param(name, strategy, marks=() if (name, strategy) in SAMPLE else pytest.mark.slow)
    for name in TINY
    for strategy in STRATEGIES
]
VARIANTS = [
    ("moe-tiny", {"scan_layers": False, "capacity_factor": 0.5}),
    ("moe-tiny", {"remat": "full"}),
    ("t5-tiny", {"scan_layers": True, "gated": True, "tie_head": False, "dropout": 0.1}),
    ("bert-tiny", {"scan_layers": True, "remat": "dots", "dropout": 0.1}),
    ("vit-tiny", {"scan_layers": True, "remat": "full", "dropout": 0.1}),
    ("unet-tiny", {"attention_sizes": (4,), "remat": "full", "dropout": 0.1}),
    ("resnet-tiny", {"stem": "imagenet", "block": "bottleneck", "image_size": 32}),
    ("llama-nnx-tiny", {"scan_layers": False, "tie_head": True}),
    ("llama-nnx-tiny", {"remat": "full"}),
]


@functools.cache
def _on_one_device(name, batch_of, state_of, **overrides):
    spec = models.get(name, **overrides)
    # The momentum after one step is the gradient.
    training = models.make_training(spec, optax.sgd(0.1, momentum=0.9))
    state, batch = state_of(training), batch_of(spec)
    return training, state, batch, jax.jit(training.train_step)(state, batch)


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_a_step_gives_the_numbers_of_one_device(name, strategy, batch_of, state_of):
    _check(_on_one_device(name, batch_of, state_of), strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("name", "overrides"), VARIANTS, ids=str)
def test_options_give_the_numbers_of_one_device(name, overrides, strategy, batch_of, state_of):
    _check(_on_one_device(name, batch_of, state_of, **overrides), strategy)


def _check(case, strategy):
    training, state, batch, (expected, metrics) = case
    step = autoshard.parallelize(
        training.train_step, mesh="data=2,model=4", strategy=strategy, donate=False
    )
    actual, actual_metrics = step(state, batch)
    # Sums of convolutions on shards round elsewhere: 1.3e-6 for the U-Net.
    np.testing.assert_allclose(actual_metrics["loss"], metrics["loss"], rtol=3e-6)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected.opt_state))
    for part in ("opt_state", "collections"):
        left, right = (jax.tree.leaves(getattr(s, part)) for s in (actual, expected))
        for a, b in zip(left, right, strict=True):
            np.testing.assert_allclose(a, b, atol=5e-6 * scale, rtol=1e-5)
    # The batch, and with the other strategies most of the state, really is cut.
    cut = [leaf for leaf in step.last_plan.arguments if not leaf.spec.is_replicated]
    assert len(cut) >= (1 if strategy == "tensor" else len(batch))
    if strategy.startswith("zero3"):
        assert len(cut) > 0.8 * len(step.last_plan.arguments)
