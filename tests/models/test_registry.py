import pytest

from autoshard import models


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(models.UnknownModelError, match=r"named 'gtp2'\. Did you mean 'gpt2'\?"):
        models.get("gtp2")


def test_unknown_option_lists_the_options():
    with pytest.raises(
        models.UnknownOptionError, match=r"no option 'depth'.*layers.*dtype"
    ) as info:
        models.get("gpt2", depth=3)
    assert info.value.options == ("depth",)


def test_overrides_replace_fields():
    config = models.get("llama-tiny", layers=3, kv_heads=2).config
    assert (config.layers, config.kv_heads, config.hidden) == (3, 2, 64)


def test_overriding_the_width_changes_the_head_size():
    assert models.get("llama-2-7b", hidden=64, heads=4, kv_heads=4).config.head_size == 16


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("gpt2", {"heads": 5}, "hidden=768 is not a multiple of heads=5"),
        ("gpt2", {"layers": 0}, "layers=0 must be at least 1"),
        ("gpt2", {"dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        ("gpt2", {"dtype": "float99"}, "dtype='float99' is not a data type"),
        ("gpt2", {"dtype": "int32"}, "dtype=int32 is not a floating-point type"),
        ("gpt2", {"remat": "some"}, "remat='some' is unknown; use one of 'none', 'full', 'dots'"),
        ("llama-3-8b", {"kv_heads": 5}, "heads=32 is not a multiple of kv_heads=5"),
        ("llama-tiny", {"hidden": 24}, "head_size=3 must be even"),
        ("resnet-50", {"blocks": ()}, "needs at least one block per stage"),
        ("resnet-50", {"block": "wide"}, "neither 'basic' nor 'bottleneck'"),
        ("resnet-50", {"stem": "none"}, "neither 'imagenet' nor 'cifar'"),
    ],
)
def test_contradictory_configurations_are_refused(name, overrides, message):
    with pytest.raises(models.ModelConfigError, match=message):
        models.get(name, **overrides)


def test_register_rejects_a_taken_name_and_a_foreign_config():
    with pytest.raises(models.ModelError, match="'gpt2' is registered already"):
        models.register("gpt2", models.GPT2Config())
    with pytest.raises(models.ModelError, match="dict is no model configuration"):
        models.register("mine", {})  # pyright: ignore[reportArgumentType]


def test_registered_models_are_known_by_name(monkeypatch):
    monkeypatch.setattr("autoshard.models._registry._configs", {})
    models.register("mine", models.GPT2Config(layers=1))
    assert models.names() == ("mine",)
    assert models.get("mine").config.layers == 1
