"""Sharding constraints that stand in the program: pins on its values."""

from __future__ import annotations

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.errors import ConstraintMeshError
from autoshard.plan import MeshShape
from autoshard.recipes.pins._pin import Pin, Target, make_pin
from autoshard.tracing import Op, Program, nbytes


def user_constraints(program: Program, mesh: MeshShape) -> dict[int, Pin]:
    """The pins of all `jax.lax.with_sharding_constraint` calls, in loop bodies too.

    A constraint speaks of axes by name, so that it can be kept on any mesh with these axes.

    Args:
        program: The program.
        mesh: The mesh.

    Returns:
        Op id → pin on the op's result.

    Raises:
        ConstraintMeshError: The mesh cannot express it.
        PinError: It does not fit its array.
    """
    found: dict[int, Pin] = {}
    for op in program.ops:
        if op.primitive == "sharding_constraint":
            aval = program.values[op.results[0]].aval
            source = f"with_sharding_constraint at {op.source or 'an unknown line'}"
            target = Target(
                path=f"an array of shape {list(aval.shape)}",
                shape=tuple(aval.shape),
                nbytes=nbytes(aval),
            )
            spec = _spec(op, mesh, source)
            found[op.id] = make_pin(
                spec, target, mesh, source, op.params.get("unconstrained_dims", ())
            )
    return found


def _spec(op: Op, mesh: MeshShape, source: str) -> PartitionSpec:
    """The spec of a constraint, if the mesh has its axes."""
    sharding = op.params["sharding"]

    def refuse(problem: str) -> ConstraintMeshError:
        spec = getattr(sharding, "spec", None)
        text = str(sharding) if spec is None else str(spec)
        return ConstraintMeshError(source, text, mesh.text, problem)

    if not isinstance(sharding, NamedSharding):
        if sharding.is_fully_replicated and len(sharding.device_set) > 1:
            return PartitionSpec()
        raise refuse(f"a {type(sharding).__name__} names no axes of a mesh")
    if op.params.get("layout") is not None:
        raise refuse("it also asks for a layout in memory, which a plan does not speak of")
    if _moves_memory(sharding):
        raise refuse(f"it moves the array to {sharding.memory_kind!r} memory")
    theirs = dict(sharding.mesh.shape)
    for entry in sharding.spec:
        for axis in entry if isinstance(entry, tuple) else (entry,):
            if not isinstance(axis, str):
                continue
            if axis not in mesh.axes:
                raise refuse(f"there is no axis {axis!r}")
            if theirs[axis] != mesh.axes[axis]:
                raise refuse(
                    f"the axis {axis!r} has {mesh.axes[axis]} devices there, {theirs[axis]} in "
                    "the mesh of the constraint"
                )
    return sharding.spec


def _moves_memory(sharding: NamedSharding) -> bool:
    """Whether a constraint names another memory than its devices compute in."""
    kinds = {None, "device"}
    if isinstance(sharding.mesh, Mesh):  # an abstract one has no devices
        kinds.add(sharding.mesh.devices.flat[0].default_memory().kind)
    return sharding.memory_kind not in kinds
