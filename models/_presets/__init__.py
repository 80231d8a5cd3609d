"""Published configurations by name, and small ones for tests and demonstrations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autoshard.models._presets._decoders import DECODERS
from autoshard.models._presets._encoders import ENCODERS
from autoshard.models._presets._images import IMAGES
from autoshard.models._presets._recommenders import RECOMMENDERS
from autoshard.models._presets._small import SMALL

PRESETS: Mapping[str, Any] = MappingProxyType(
    {**DECODERS, **ENCODERS, **IMAGES, **RECOMMENDERS, **SMALL}
)
"""Preset name -> configuration."""
