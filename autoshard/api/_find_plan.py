"""Where the plan of a call comes from: the user, the folder of kept plans, or planning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoshard.errors import PlanMismatchError, UnknownPrimitiveError
from autoshard.plan import MeshShape, Plan, Spec, cached_plan, replay
from autoshard.recipes import plan_by_recipe
from autoshard.rules import with_rules
from autoshard.tracing import Program


def find_plan(
    program: Program,
    mesh: MeshShape,
    strategy: str,
    *,
    given: Plan | None,
    pins: Mapping[str, Any],
    fixed: Mapping[str, Spec],
    reduce_dtype: str | None,
    strict: bool,
    hardware: str,
) -> Plan:
    """The plan of a program.

    Args:
        program: The program.
        mesh: The mesh.
        strategy: How to plan where there is no plan yet.
        given: The plan that the user wants followed.
        pins: Specs that the user gave to arguments and results, by path or pattern.
        fixed: Specs that arguments inherit, by path.
        reduce_dtype: The type in which gradients are combined.
        strict: Whether primitives without a rule are refused.
        hardware: Kind of the devices.

    Returns:
        The plan.

    Raises:
        PlanMismatchError: The given plan belongs to another program or mesh.
        UnknownPrimitiveError: A primitive has no rule, and `strict` is set.
        AutoshardError: The program cannot be planned.
    """
    if given is not None:
        return replay(given, program, mesh)
    ruled = with_rules(program)
    if strict and ruled.unknown:
        raise UnknownPrimitiveError(ruled.unknown)
    return cached_plan(
        ruled,
        mesh,
        lambda: plan_by_recipe(
            ruled, mesh, strategy, pins=pins, fixed=fixed, reduce_dtype=reduce_dtype
        ),
        hardware=hardware,
        options={
            "strategy": strategy,
            "reduce_dtype": reduce_dtype,
            "pins": {path: str(spec) for path, spec in sorted(pins.items())},
            "fixed": {path: str(spec) for path, spec in sorted(fixed.items())},
        },
    )


def planned_mesh(plan: Plan, n_devices: int) -> MeshShape:
    """The mesh of a plan that is to run here.

    Args:
        plan: The plan.
        n_devices: Devices there are.

    Returns:
        Its mesh.

    Raises:
        PlanMismatchError: There are more or fewer devices.
    """
    size = plan.mesh.size
    if size != n_devices:
        raise PlanMismatchError(
            plan.name,
            [f"mesh: {plan.mesh} with {size} devices in the plan, {n_devices} are visible here"],
            f"run it on {size} devices (on a CPU: autoshard.emulate({size}) before JAX starts), or "
            "plan anew: leave plan= out",
        )
    return plan.mesh
