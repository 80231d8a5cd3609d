"""Where arrays are born when no plan says it yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.plan import MeshShape
from autoshard.recipes import RECIPES, parse_strategy

_WHOLE = frozenset({"dp", "replicate", "sequence", "zero1", "zero2"})
"""Recipes under which every device stores the parameters that it computes with."""


def storage_axes(mesh: Mesh, strategy: str) -> tuple[str, ...]:
    """Mesh axes over which a strategy stores parameters in parts."""
    shape = MeshShape(tuple(mesh.axis_names), tuple(mesh.devices.shape))
    terms = parse_strategy(strategy, shape, RECIPES)
    cut = {axis for term in terms if term.name not in _WHOLE for axis in term.axes}
    return tuple(axis for axis in mesh.axis_names if axis in cut)


def stored(shape: Sequence[int], mesh: Mesh, axes: Sequence[str]) -> NamedSharding:
    """Cut an array's largest dimension that divides, over as many of the axes as divide it.

    Args:
        shape: Of the array.
        mesh: The mesh.
        axes: Axes to use, major to minor.

    Returns:
        The sharding; whole on every device where nothing divides.
    """
    spec: list[Any] = [None] * len(shape)
    choices: list[tuple[str, ...]] = [tuple(axes)]
    choices += [(axis,) for axis in sorted(axes, key=lambda a: -mesh.shape[a])]
    for choice in choices:
        n = math.prod(mesh.shape[axis] for axis in choice)
        fitting = [d for d, size in enumerate(shape) if size % n == 0 and size >= n > 1]
        if fitting:
            largest = max(fitting, key=lambda d: shape[d])
            spec[largest:] = [choice[0] if len(choice) == 1 else choice]
            return NamedSharding(mesh, PartitionSpec(*spec))
    return NamedSharding(mesh, PartitionSpec())
