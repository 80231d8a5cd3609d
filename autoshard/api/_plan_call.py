"""From a call to its program and plan: traced, then planned, found among kept plans, or given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import PartitionSpec

from autoshard.api._calls import Call
from autoshard.api._planning import planning
from autoshard.api._tracing import trace_call
from autoshard.api.adapters.nnx._kinds import updates_explained
from autoshard.errors import UnknownPrimitiveError
from autoshard.plan import MeshShape, Plan, Spec, cached_plan, replay
from autoshard.recipes import plan_by_recipe
from autoshard.rules import with_rules
from autoshard.tracing import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What was asked of the plan of each call.

    Args:
        strategy: How to plan where there is no plan yet.
        given: A plan to follow instead of planning.
        pins: Specs that the user gave to arguments and results, by path or pattern.
        reduce_dtype: The type in which gradients are combined.
        strict: Whether primitives without a rule are refused.
    """

    strategy: str
    given: Plan | None = None
    pins: Mapping[str, Any] = field(default_factory=dict)
    reduce_dtype: str | None = None
    strict: bool = False


def plan_call(
    function: Callable[..., Any],
    call: Call,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
    options: PlanOptions,
    *,
    earlier: Sequence[Plan],
    notes: Sequence[str],
    hardware: str,
    keep_custom: bool = False,
) -> tuple[Program, Plan]:
    """Trace and plan one call.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        mesh: The mesh, of devices or not.
        options: What was asked of the plan.
        earlier: Plans whose state this one shares.
        notes: What else the user should know.
        hardware: Kind of the devices.
        keep_custom: As for `autoshard.tracing.trace`.

    Returns:
        The program and its plan.

    Raises:
        PlanMismatchError: The given plan belongs to another program or mesh.
        UnknownPrimitiveError: A primitive has no rule, and `strict` is set.
        AutoshardError: The program cannot be traced or planned.
    """
    with planning(), updates_explained(getattr(function, "__name__", "the function")):
        program = trace_call(function, call, mesh, keep_custom=keep_custom)
    shape = MeshShape(tuple(mesh.shape), tuple(mesh.shape.values()))
    fixed = _fitting_specs(program, _fixed_specs(earlier))
    plan = _find_plan(program, shape, options, fixed, call.annotations, hardware)
    return program, replace(plan, notes=(*plan.notes, *notes))


def _find_plan(
    program: Program,
    mesh: MeshShape,
    options: PlanOptions,
    fixed: Mapping[str, Spec],
    annotations: Mapping[str, PartitionSpec],
    hardware: str,
) -> Plan:
    """The plan that the user gave, one that was kept, or a new one."""
    if options.given is not None and not options.strict:
        return replay(options.given, program, mesh)
    ruled = with_rules(program)
    if options.strict and ruled.unknown:
        raise UnknownPrimitiveError(ruled.unknown)
    if options.given is not None:
        return replay(options.given, program, mesh)
    return cached_plan(
        ruled,
        mesh,
        lambda: plan_by_recipe(
            ruled,
            mesh,
            options.strategy,
            pins=options.pins,
            fixed=fixed,
            annotations=annotations,
            reduce_dtype=options.reduce_dtype,
        ),
        hardware=hardware,
        options={
            "strategy": options.strategy,
            "reduce_dtype": options.reduce_dtype,
            "pins": {path: str(spec) for path, spec in sorted(options.pins.items())},
            "fixed": {path: str(spec) for path, spec in sorted(fixed.items())},
            "annotations": {path: str(spec) for path, spec in sorted(annotations.items())},
        },
    )


def _fixed_specs(plans: Sequence[Plan]) -> dict[str, Spec]:
    """Specs of the state of earlier plans, by path; the first plan wins."""
    found: dict[str, Spec] = {}
    for plan in plans:
        for leaf in plan.state:
            found.setdefault(f"{leaf.path}:{leaf.shape}", leaf.spec)
    return found


def _fitting_specs(program: Program, fixed: Mapping[str, Spec]) -> dict[str, Spec]:
    """The fixed specs that speak of this program's arguments.

    An argument is the same as an earlier one when it has its shape and its path, or when one path
    is the end of the other: ``params/w`` of an evaluation is ``state/params/w`` of the step.
    """
    found: dict[str, Spec] = {}
    for leaf in program.arguments:
        shape = program.argument_value(leaf).shape
        name = f"{leaf.path}:{shape}"
        matches = {
            spec
            for other, spec in fixed.items()
            if other == name or other.endswith("/" + name) or name.endswith("/" + other)
        }
        if name in fixed:
            found[leaf.path] = fixed[name]
        elif len(matches) == 1:
            found[leaf.path] = matches.pop()
    return found
