"""The models on which plans compete: for each the training that is planned, in full."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueEntry:
    """One training: the preset of that name, computed in bfloat16 with float32 parameters.

    Attributes:
        batch: Examples per step.
        seq: Tokens per example, or None where the preset says it.
        topologies: Devices that plans are compiled for.
    """

    batch: int
    topologies: tuple[str, ...]
    seq: int | None = None


LEAGUE: Mapping[str, LeagueEntry] = MappingProxyType(
    {
        "gpt2-medium": LeagueEntry(batch=16, seq=1024, topologies=("v5e:2x4",)),
        "llama-1b": LeagueEntry(batch=16, seq=2048, topologies=("v5e:2x4", "v5e:4x4")),
        "llama-8b": LeagueEntry(batch=64, seq=4096, topologies=("v5p:2x2x4", "v6e:4x8")),
        "bert-large": LeagueEntry(batch=64, seq=512, topologies=("v5e:2x4",)),
        "t5-base": LeagueEntry(batch=64, topologies=("v5e:2x4",)),
        "moe-8x": LeagueEntry(batch=32, seq=1024, topologies=("v5e:4x4",)),
        "vit-large": LeagueEntry(batch=256, topologies=("v5e:2x4",)),
        "resnet-50": LeagueEntry(batch=512, topologies=("v5e:2x4",)),
        "dlrm": LeagueEntry(batch=16384, topologies=("v5e:2x4",)),
        "unet": LeagueEntry(batch=64, topologies=("v5e:2x4",)),
    }
)
"""Preset name -> training."""
