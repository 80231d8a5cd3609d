"""Models by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

from autoshard.models._presets import PRESETS
from autoshard.models._spec import ImageModelSpec, LanguageModelSpec, ModelSpec
from autoshard.models.errors import ModelError, UnknownModelError, UnknownOptionError
from autoshard.models.gpt2 import GPT2, GPT2Config
from autoshard.models.llama import Llama, LlamaConfig
from autoshard.models.resnet import ResNet, ResNetConfig

_configs: dict[str, Any] = dict(PRESETS)

_FAMILIES: dict[type, Callable[[str, Any], ModelSpec]] = {
    GPT2Config: lambda name, config: LanguageModelSpec(
        name=name, config=config, module=GPT2(config)
    ),
    LlamaConfig: lambda name, config: LanguageModelSpec(
        name=name, config=config, module=Llama(config)
    ),
    ResNetConfig: lambda name, config: ImageModelSpec(
        name=name, config=config, module=ResNet(config)
    ),
}


def get(name: str, **overrides: Any) -> ModelSpec:
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
    return _FAMILIES[type(config)](name, dataclasses.replace(config, **overrides))


def names() -> tuple[str, ...]:
    """Every registered preset's name, in order of registration."""
    return tuple(_configs)


def register(name: str, config: GPT2Config | LlamaConfig | ResNetConfig) -> None:
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
