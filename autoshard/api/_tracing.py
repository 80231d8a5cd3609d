"""Tracing a call, with the plan's mesh at hand for constraints that name axes alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax

from autoshard.api._calls import Call
from autoshard.errors import ConstraintMeshError
from autoshard.tracing import Program, trace

_NO_MESH = "requires a non-empty mesh in context"
_NO_AXIS = re.compile(r"Resource axis: (\S+) of (.*?) is not found in mesh")


def trace_call(
    function: Callable[..., Any],
    call: Call,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    *,
    keep_custom: bool,
) -> Program:
    """Trace a call.

    ``with_sharding_constraint(x, PartitionSpec(…))`` wants a mesh around it. Where the user has
    none, that of the plan is meant; but only there, for models look at the mesh around them to
    find out whether they run on one device.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        mesh: The mesh of the plan.
        keep_custom: As for `autoshard.tracing.trace`.

    Returns:
        The program.

    Raises:
        ConstraintMeshError: A constraint names an axis that the mesh does not have.
    """
    try:
        return trace(function, call.args, call.kwargs, keep_custom=keep_custom)
    except RuntimeError as error:
        if _NO_MESH not in str(error):
            raise
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return trace(function, call.args, call.kwargs, keep_custom=keep_custom)
    except ValueError as error:
        found = _NO_AXIS.search(str(error))
        if found is None:
            raise
        text = ",".join(f"{name}={size}" for name, size in mesh.shape.items())
        raise ConstraintMeshError(
            "with_sharding_constraint", found[2], text, f"there is no axis {found[1]!r}"
        ) from error
