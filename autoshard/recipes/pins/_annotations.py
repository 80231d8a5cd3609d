"""What a model's annotations say about its arrays: hints, followed where that can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.sharding import PartitionSpec

from autoshard.errors import PinError
from autoshard.plan import MeshShape, Roles
from autoshard.recipes.pins._pin import Pin, Target, make_pin
from autoshard.tracing import Program, nbytes

_SOURCE = "the annotation of its variable"


def with_annotations(
    program: Program,
    mesh: MeshShape,
    roles: Roles,
    pins: Mapping[int, Pin],
    annotations: Mapping[str, PartitionSpec],
) -> tuple[dict[int, Pin], list[str]]:
    """Add the annotations that the mesh can follow; what is pinned already stays as it is.

    An annotation was written without knowing the mesh, so that names which are no axes of it say
    nothing, and one that does not fit is left out with a note. Dimensions without an axis are open
    to the strategy.

    Args:
        program: The program.
        mesh: The mesh.
        roles: Which arguments are state.
        pins: Op id of an argument, result or constraint → its pin.
        annotations: Path of an argument → what its annotation says.

    Returns:
        The pins with those of the annotations, and notes for the user.
    """
    found = dict(pins)
    followed: list[str] = []
    notes: list[str] = []
    for leaf in program.arguments:
        if leaf.op in pins or leaf.captured or leaf.path not in annotations:
            continue
        entries = [_known(entry, mesh) for entry in annotations[leaf.path]]
        if not any(entries):
            continue
        spec = PartitionSpec(*(entry or PartitionSpec.UNCONSTRAINED for entry in entries))
        aval = program.argument_value(leaf).aval
        target = Target(path=leaf.path, shape=tuple(aval.shape), nbytes=nbytes(aval))
        try:
            # Dimensions that the annotation does not reach are open as well.
            rest = range(len(entries), len(target.shape))
            pin = make_pin(spec, target, mesh, _SOURCE, unconstrained=rest)
        except PinError as error:
            notes.append(f"not followed: {str(error).splitlines()[0]}")
            continue
        found[leaf.op] = pin
        if leaf.op in roles.state_of_argument:
            found[roles.state_of_argument[leaf.op]] = pin
        followed.append(f"{leaf.path} {pin.text}")
    if followed:
        notes.append(
            f"{len(followed)} arrays are cut as their annotations say, such as {followed[0]}; "
            "pins= says otherwise"
        )
    return found, notes


def _known(entry: Any, mesh: MeshShape) -> tuple[str, ...]:
    """The axes of one dimension that the mesh has."""
    axes = (entry,) if isinstance(entry, str) else entry if isinstance(entry, tuple) else ()
    return tuple(axis for axis in axes if mesh.axes.get(axis, 1) > 1)
