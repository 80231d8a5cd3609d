"""A plan as a jitted function over flat arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from autoshard._compat import memory_first_options
from autoshard.errors import MeshError
from autoshard.lowering._backend import AutoAxes
from autoshard.lowering._emit import Emitter
from autoshard.plan import LeafPlan, MeshShape, Plan
from autoshard.tracing import Program


def device_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """A `jax.sharding.Mesh` with Auto axes.

    Args:
        shape: Axis names and sizes.
        devices: The devices to use; all visible ones by default, in the order that
            `jax.make_mesh` finds best for their topology.

    Returns:
        The mesh.

    Raises:
        MeshError: The number of devices differs.
    """
    auto = (AxisType.Auto,) * len(shape.names)
    count = len(jax.devices()) if devices is None else len(devices)
    if count != shape.size:
        raise MeshError(shape.text, f"it needs {shape.size} devices, there are {count}")
    return jax.make_mesh(shape.sizes, shape.names, axis_types=auto, devices=devices)


def with_auto_axes(mesh: Mesh) -> Mesh:
    """The same devices in the same order, every axis Auto: plans are expressed as constraints."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def shardings(leaves: Sequence[LeafPlan], mesh: Mesh | AbstractMesh) -> list[NamedSharding]:
    """The shardings of planned leaves on a device mesh."""
    return [NamedSharding(mesh, leaf.spec.partition_spec()) for leaf in leaves]


def lower_plan(
    program: Program,
    plan: Plan,
    mesh: Mesh | AbstractMesh,
    *,
    donate: bool | Sequence[int] = False,
    results: Sequence[int] | None = None,
    nested: bool = False,
) -> Any:
    """Make a jitted function that follows a plan.

    Args:
        program: The program.
        plan: Its plan.
        mesh: A device mesh with the plan's axes, all Auto; an abstract one to lower for devices
            that are not there.
        donate: Let the compiler reuse the memory of the state arguments, or of those at some
            positions.
        results: Positions of the results to return; all by default.
        nested: The function will be called inside another trace, where neither memory can be
            donated nor the compiler be told anything.

    Returns:
        ``jax.jit`` of a function from flat arguments (captured arrays last) to flat results.
    """
    emitter = Emitter(program, plan, AutoAxes(mesh))

    state = tuple(i for i, leaf in enumerate(plan.arguments) if leaf.carried)
    taken = (state if donate else ()) if isinstance(donate, bool) else tuple(donate)
    kept = range(len(plan.results)) if results is None else tuple(results)

    def planned(*arguments: Any) -> list[Any]:
        everything = emitter(*arguments)
        return [everything[i] for i in kept]

    planned.__name__ = planned.__qualname__ = program.name
    return jax.jit(
        planned,
        in_shardings=tuple(shardings(plan.arguments, mesh)),
        out_shardings=shardings([plan.results[i] for i in kept], mesh),
        donate_argnums=() if nested else taken,
        compiler_options=None if nested else _options(mesh),
    )


def _options(mesh: Mesh | AbstractMesh) -> dict[str, str] | None:
    """What the compiler is told; nothing where another process will compile."""
    if isinstance(mesh, AbstractMesh):
        return None
    return memory_first_options(mesh.devices.flat[0].platform)
