"""Models by name."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from autoshard.models import _specs
from autoshard.models._league import LEAGUE, LeagueEntry
from autoshard.models._presets import PRESETS
from autoshard.models.bert import Bert, BertConfig
from autoshard.models.dlrm import DLRM, DLRMConfig
from autoshard.models.errors import ModelError, UnknownModelError, UnknownOptionError
from autoshard.models.gpt2 import GPT2, GPT2Config
from autoshard.models.llama import Llama, LlamaConfig
from autoshard.models.llama_nnx import LlamaNNX, LlamaNNXConfig
from autoshard.models.mixtral import Mixtral, MixtralConfig
from autoshard.models.resnet import ResNet, ResNetConfig
from autoshard.models.t5 import T5, T5Config
from autoshard.models.unet import UNet, UNetConfig
from autoshard.models.vit import ViT, ViTConfig


class _Family(NamedTuple):
    module: type[Any]
    spec: type[_specs.ModelSpec]
    nnx: bool = False


_FAMILIES: Mapping[type, _Family] = MappingProxyType(
    {
        GPT2Config: _Family(GPT2, _specs.LanguageModelSpec),
        LlamaConfig: _Family(Llama, _specs.LanguageModelSpec),
        LlamaNNXConfig: _Family(LlamaNNX, _specs.NNXLanguageModelSpec, nnx=True),
        MixtralConfig: _Family(Mixtral, _specs.SparseLanguageModelSpec),
        BertConfig: _Family(Bert, _specs.MaskedLanguageModelSpec),
        T5Config: _Family(T5, _specs.TextToTextModelSpec),
        ViTConfig: _Family(ViT, _specs.ImageModelSpec),
        ResNetConfig: _Family(ResNet, _specs.ImageModelSpec),
        UNetConfig: _Family(UNet, _specs.DiffusionModelSpec),
        DLRMConfig: _Family(DLRM, _specs.ClickModelSpec),
    }
)

_configs: dict[str, Any] = dict(PRESETS)


def get(name: str, **overrides: Any) -> _specs.ModelSpec:
    """Builds a model by its preset's name.

    Args:
        name: One of `names()`.
        **overrides: Fields of the preset's configuration to replace, e.g. `dtype="bfloat16"`.

    Returns:
        The module with its configuration, example batches and loss.

    Raises:
        UnknownModelError: No preset has that name.
        UnknownOptionError: An override is no field of the configuration.
        ModelConfigError: The resulting configuration contradicts itself.

    Example:
        >>> get("gpt2").param_count()
        124439808
        >>> get("gpt-tiny", layers=4).config.layers
        4
    """
    if name not in _configs:
        raise UnknownModelError(name, names())
    config = _configs[name]
    fields = [field.name for field in dataclasses.fields(config)]
    if unknown := [option for option in overrides if option not in fields]:
        raise UnknownOptionError(name, unknown, fields)
    config = dataclasses.replace(config, **overrides)
    family = _FAMILIES[type(config)]
    return family.spec(
        name=name,
        config=config,
        module=family.module if family.nnx else family.module(config),
        **_default_batch(LEAGUE.get(name)),
    )


def league(name: str, **overrides: Any) -> _specs.ModelSpec:
    """Builds a model on which plans compete, in bfloat16 with float32 parameters.

    Its `example_batch()` is the league's.

    Args:
        name: One of `LEAGUE`.
        **overrides: Fields of the preset's configuration to replace.

    Raises:
        UnknownModelError: The league has no model of that name.
        UnknownOptionError: An override is no field of the configuration.
        ModelConfigError: The resulting configuration contradicts itself.

    Example:
        >>> league("bert-large").example_batch()["inputs"].shape
        (64, 512)
    """
    if name not in LEAGUE:
        raise UnknownModelError(name, LEAGUE)
    return get(name, **{"dtype": "bfloat16", **overrides})


def names() -> tuple[str, ...]:
    """Every registered preset's name, in order of registration."""
    return tuple(_configs)


def register(name: str, config: Any) -> None:
    """Adds a preset, so that `get` and the command line know it by name.

    Args:
        name: A name not yet taken.
        config: Configuration of one of the families.

    Raises:
        ModelError: The name is taken, or the configuration belongs to no family.
    """
    if name in _configs:
        raise ModelError(f"A model named {name!r} is registered already; choose another name.")
    if type(config) not in _FAMILIES:
        raise ModelError(
            f"{type(config).__name__} is no model configuration; use one of "
            f"{', '.join(family.__name__ for family in _FAMILIES)}."
        )
    _configs[name] = config


def _default_batch(entry: LeagueEntry | None) -> dict[str, Any]:
    return {} if entry is None else {"default_batch": entry.batch, "default_seq": entry.seq}
