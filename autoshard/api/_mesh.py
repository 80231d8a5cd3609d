"""The device mesh that a function runs on."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from autoshard.errors import OptionError, PlanMismatchError
from autoshard.lowering import device_mesh
from autoshard.plan import MeshShape, Plan, parse_mesh


def choose_mesh(option: Any, shared: Mesh | None, given: Plan | None) -> tuple[Mesh, str | None]:
    """The mesh of a function, with Auto axes.

    Args:
        option: As `autoshard.parallelize` takes it.
        shared: The mesh of a function whose state this one shares.
        given: The plan to follow.

    Returns:
        The mesh, and what the user should know of it, if anything.

    Raises:
        MeshError: The option is no mesh of the visible devices.
        OptionError: It is another mesh than the shared one.
        PlanMismatchError: The plan is for more or fewer devices.
    """
    if option is None and shared is not None:
        return shared, None
    if option is None and given is not None:
        option = _planned_mesh(given, len(jax.devices()))
    note = None
    if isinstance(option, Mesh):
        # The user's order of devices holds.
        kinds = set(map(str, option.axis_types)) - {str(AxisType.Auto)}
        if kinds:
            note = (
                f"the mesh's {' and '.join(sorted(kinds))} axes were made Auto: the plan, not "
                "the types of arrays, says how everything is sharded"
            )
        auto = (AxisType.Auto,) * len(option.axis_names)
        mesh = Mesh(option.devices, option.axis_names, axis_types=auto)
    else:
        mesh = device_mesh(parse_mesh(option, len(jax.devices())))
    if shared is not None and mesh != shared:
        theirs = ",".join(f"{n}={s}" for n, s in shared.shape.items())
        raise OptionError("mesh", option, f"{theirs!r} (the mesh of like=), None")
    return mesh, note


def _planned_mesh(plan: Plan, n_devices: int) -> MeshShape:
    """The mesh of a plan that is to run here."""
    size = plan.mesh.size
    if size != n_devices:
        raise PlanMismatchError(
            plan.name,
            [f"mesh: {plan.mesh} with {size} devices in the plan, {n_devices} are visible here"],
            f"run it on {size} devices (on a CPU: autoshard.emulate({size}) before JAX starts), or "
            "plan anew: leave plan= out",
        )
    return plan.mesh
