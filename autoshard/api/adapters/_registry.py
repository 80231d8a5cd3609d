"""Which adapter an object needs: looked up without importing what is not loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoshard.api.adapters._options import Options


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model.

    Args:
        module: Where its base class is.
        base: The name of the base class.
        adapter: The module with ``plan_class`` and ``plan_instance``.
    """

    module: str
    base: str
    adapter: str


KINDS: list[Kind] = [
    Kind("flax.linen", "Module", "autoshard.api.adapters.linen"),
    Kind("flax.nnx", "Module", "autoshard.api.adapters.nnx._module"),
    Kind(
        "transformers.modeling_flax_utils",
        "FlaxPreTrainedModel",
        "autoshard.api.adapters.huggingface",
    ),
]
"""Every kind of model that `autoshard.parallelize` takes beside functions."""

Adapter = Callable[[Any, Options], Any]


def find_adapter(value: Any) -> Adapter | None:
    """What makes a planned class of a class, or a planned instance of an instance.

    Args:
        value: What the decorator was applied to.

    Returns:
        The adapter; None for a function.
    """
    for kind in KINDS:
        # A class of an unloaded module has no instances.
        base = getattr(sys.modules.get(kind.module), kind.base, None)
        if base is None:
            continue
        if isinstance(value, type) and issubclass(value, base):
            return importlib.import_module(kind.adapter).plan_class
        if isinstance(value, base):
            return importlib.import_module(kind.adapter).plan_instance
    return None
