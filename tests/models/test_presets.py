"""Parameter counts against those of the published checkpoints."""

import jax
import jax.numpy as jnp
import pytest

from autoshard import models

# Totals of the released weights: the GPT-2 checkpoints, the safetensors headers of the meta-llama,
# TinyLlama, mistralai, google-bert (with both heads), google-t5 and google repositories,
# torchvision's table for the ResNets and ViTs (vit-small: DeiT-S of Touvron et al.), and the
# U-Nets of google/ddpm-cifar10-32 and google/ddpm-celebahq-256.
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
    "llama-nnx-3-8b": 8_030_261_248,
    "llama-nnx-3.2-1b": 1_235_814_400,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "llama-1b": 1_235_814_400,
    "llama-8b": 8_030_261_248,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-1.1-small": 76_961_152,
    "t5-1.1-base": 247_577_856,
    "t5-1.1-large": 783_150_080,
    "t5-1.1-xl": 2_849_757_184,
    "t5-1.1-xxl": 11_135_332_352,
    "vit-small": 22_050_664,
    "vit-base": 86_567_656,
    "vit-large": 304_326_632,
    "vit-huge": 632_045_800,
    "ddpm-cifar10": 35_746_307,
    "ddpm-256": 113_673_219,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "resnet-152": 60_192_808,
}
# Not published as a total; what the tables and layers add up to.
_CRITEO_MLPS = {
    "dlrm-kaggle": [(13, 512), (512, 256), (256, 64), (64, 16), (367, 512), (512, 256), (256, 1)],
    "dlrm-terabyte": [
        (13, 512),
        (512, 256),
        (256, 64),
        (415, 512),
        (512, 512),
        (512, 256),
        (256, 1),
    ],
    "dlrm-mlperf": [
        *((13, 512), (512, 256), (256, 128)),
        *((479, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 1)),
    ],
}
CRITEO_ROWS = {"dlrm-kaggle": 33_762_577, "dlrm-terabyte": 49_126_297, "dlrm-mlperf": 187_767_399}
# Sizes that no one published: those of the league that are ours, and those for tests.
OURS = {"gpt-small", "llama-small", "moe-8x", "dlrm", "unet"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name, count_of):
    assert count_of(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", CRITEO_ROWS)
def test_the_recommenders_count_their_rows_and_layers(name):
    spec = models.get(name)
    assert sum(spec.config.table_rows) == CRITEO_ROWS[name]
    layers = sum((inputs + 1) * outputs for inputs, outputs in _CRITEO_MLPS[name])
    assert spec.param_count() == CRITEO_ROWS[name] * spec.config.embedding + layers


def test_every_preset_is_covered():
    others = set(models.names()) - set(PUBLISHED) - set(CRITEO_ROWS) - OURS
    assert all(name.endswith("-tiny") for name in others)
    assert len(others) == 10


@pytest.mark.parametrize("name", [n for n in models.names() if n.endswith("-tiny")])
def test_tiny_presets_are_tiny(name, count_of):
    assert count_of(name) < 500_000


def test_the_league_computes_in_bfloat16_on_its_own_batches():
    shapes = {}
    for name in models.LEAGUE:
        spec = models.league(name)
        assert spec.config.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(spec.param_shapes())} == {jnp.dtype("f4")}
        shapes[name] = [leaf.shape for leaf in spec.example_batch().values()][:2]
    assert shapes == {
        "gpt2-medium": [(16, 1024), (16, 1024)],
        "llama-1b": [(16, 2048), (16, 2048)],
        "llama-8b": [(64, 4096), (64, 4096)],
        "bert-large": [(64, 512), (64, 512)],
        "t5-base": [(64, 512), (64, 128)],
        "moe-8x": [(32, 1024), (32, 1024)],
        "vit-large": [(256, 224, 224, 3), (256,)],
        "resnet-50": [(512, 224, 224, 3), (512,)],
        "dlrm": [(16384, 13), (16384, 26)],
        "unet": [(64, 128, 128, 3)],
    }
    with pytest.raises(models.UnknownModelError, match="Known: gpt2-medium, llama-1b"):
        models.league("gpt2")


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
