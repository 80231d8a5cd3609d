"""The plan that travels in a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoshard.plan import MeshShape, Plan, Spec


def plan_summary(plan: Plan) -> dict[str, Any]:
    """What of a plan the manifest repeats: mesh, strategy, and the specs of the state."""
    return {
        "name": plan.name,
        "strategy": plan.strategy,
        "mesh": dict(plan.mesh_shape),
        "specs": {leaf.path: [list(axes) for axes in leaf.spec.dims] for leaf in plan.state},
    }


def plan_file(plan: Plan) -> bytes | None:
    """The whole plan, as `Plan.save` writes it; None for one that was made without a program."""
    if plan.origin is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        plan.save(path)
        return path.read_bytes()


def saved_spec(
    saved: tuple[tuple[str, ...], ...] | None, shape: tuple[int, ...], mesh: MeshShape
) -> Spec:
    """The spec that an array had, as far as it makes sense on a mesh.

    Axes that the mesh lacks are dropped, and so is what does not divide a dimension.
    """
    if saved is None:
        return Spec.replicated(len(shape))
    dims: list[tuple[str, ...]] = []
    for axes, size in zip(saved, shape, strict=True):
        kept = tuple(axis for axis in axes if axis in mesh.axes)
        while kept and size % mesh.size_of(kept):
            kept = kept[:-1]
        dims.append(kept)
    return Spec(tuple(dims))


def specs_of(plan: Plan) -> Mapping[str, Spec]:
    """The specs of a plan's state and other arguments, by path."""
    return {leaf.path: leaf.spec for leaf in plan.arguments}
