"""Automatic parallelization for JAX: one decorator, any mesh.

Importing this package does not import jax: a public name loads its module on first use (PEP 562),
so `autoshard --help` is quick and `autoshard.emulate` comes in time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoshard.api._data import shard_batch as shard_batch
    from autoshard.api._emulate import emulate as emulate
    from autoshard.api._logical import logical_pins as logical_pins
    from autoshard.api._parallelize import parallelize as parallelize
    from autoshard.api._parallelized import Parallelized as Parallelized
    from autoshard.api._wrap import wrap as wrap
    from autoshard.errors import AutoshardError as AutoshardError
    from autoshard.plan import Plan as Plan
    from autoshard.plan import load_plan as load_plan
    from autoshard.rules import check_rule as check_rule
    from autoshard.rules import register_rule as register_rule

    __version__: str

# Public name -> module that defines it. Repeat the name under TYPE_CHECKING, where type checkers
# look for it. A name must differ from every sub-module's: importing that would shadow it.
_EXPORTS = {
    "AutoshardError": "autoshard.errors",
    "Parallelized": "autoshard.api._parallelized",
    "Plan": "autoshard.plan",
    "check_rule": "autoshard.rules",
    "emulate": "autoshard.api._emulate",
    "load_plan": "autoshard.plan",
    "logical_pins": "autoshard.api._logical",
    "parallelize": "autoshard.api._parallelize",
    "register_rule": "autoshard.rules",
    "shard_batch": "autoshard.api._data",
    "wrap": "autoshard.api._wrap",
}

# Packages that users reach without importing them by name, loaded on first use as well.
_SUBMODULES = ("checkpoint",)

__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # so that type checkers report a name that is not there

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = importlib.import_module("importlib.metadata").version("autoshard")
        elif name in _SUBMODULES:
            value = importlib.import_module(f"autoshard.{name}")
        elif name in _EXPORTS:
            value = getattr(importlib.import_module(_EXPORTS[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_SUBMODULES, "__version__"})
