"""Parameter counts against those of the published checkpoints."""

import jax.numpy as jnp
import pytest

from autoshard import models

# Totals of the released weights: the GPT-2 checkpoints, the safetensors headers of the meta-llama
# and TinyLlama repositories, and torchvision's table for the ResNets.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
}
OURS = {"gpt-tiny", "gpt-small", "llama-tiny", "llama-small", "resnet-tiny"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert models.get(name).param_count() == PUBLISHED[name]


def test_every_preset_is_covered():
    assert set(models.names()) >= set(PUBLISHED) | OURS


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b"])
def test_scanning_keeps_the_parameter_count(name):
    counts = {models.get(name, scan_layers=scan).param_count() for scan in (False, True)}
    assert counts == {PUBLISHED[name]}


def test_untying_the_head_adds_one_embedding():
    tied, untied = (models.get("gpt2", tie_head=tie).param_count() for tie in (True, False))
    assert untied - tied == 50257 * 768


def test_heads_are_a_dimension_of_the_kernels():
    block = models.get("llama-3-8b", scan_layers=False).param_shapes()["layers_0"]["attention"]
    shapes = {name: block[name]["kernel"].shape for name in block}
    assert shapes == {
        "query": (4096, 32, 128),
        "key": (4096, 8, 128),
        "value": (4096, 8, 128),
        "out": (32, 128, 4096),
    }


def test_parameters_and_activations_have_their_own_types():
    spec = models.get("gpt-tiny", dtype="bfloat16", param_dtype=jnp.float32)
    assert spec.config.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in _leaves(spec.param_shapes())} == {jnp.dtype("float32")}


def _leaves(tree):
    return (
        [leaf for sub in tree.values() for leaf in _leaves(sub)]
        if isinstance(tree, dict)
        else [tree]
    )
