"""Planning and compiling a call for devices that are not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from autoshard.api._calls import Call
from autoshard.api._entry import fitting_specs, forwarded_results
from autoshard.api._find_plan import find_plan
from autoshard.api._planning import planning
from autoshard.api._tracing import trace_call
from autoshard.api.adapters.nnx._kinds import updates_explained
from autoshard.lowering.ahead import Compilation, Limits, Target, compile_ahead
from autoshard.plan import Plan, Spec, parse_mesh
from autoshard.tracing import Program


def plan_for(
    function: Callable[..., Any],
    call: Call,
    target: Target,
    *,
    mesh: Any,
    strategy: str,
    given: Plan | None,
    pins: Mapping[str, Any] | None,
    reduce_dtype: str | None,
    strict: bool,
    fixed: Mapping[str, Spec],
    notes: Sequence[str],
) -> tuple[Program, Plan]:
    """Trace and plan one call for a topology.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        target: The topology.
        mesh: The mesh, as `autoshard.parallelize` takes it.
        strategy: The strategy.
        given: A plan to follow instead of planning.
        pins: Specs that the user gave to arguments and results, by path or pattern.
        reduce_dtype: The type in which gradients are combined.
        strict: Whether primitives without a rule are refused.
        fixed: Specs that arguments inherit, by path.
        notes: What else the user should know.

    Returns:
        The program and its plan.
    """
    shape = parse_mesh(mesh if given is None or mesh is not None else given.mesh, target.devices)
    auto = (AxisType.Auto,) * len(shape.names)
    abstract = AbstractMesh(shape.sizes, shape.names, axis_types=auto)
    with planning(), updates_explained(getattr(function, "__name__", "the function")):
        program = trace_call(function, call, abstract, keep_custom=False)
    plan = find_plan(
        program,
        shape,
        strategy,
        given=given,
        pins=pins or {},
        reduce_dtype=reduce_dtype,
        strict=strict,
        fixed=fitting_specs(program, fixed),
        hardware=target.text,
    )
    return program, replace(plan, notes=(*plan.notes, *notes))


def compile_for(
    program: Program,
    plan: Plan,
    call: Call,
    target: Target,
    *,
    donate: bool,
    limits: Limits | None,
    text: bool,
) -> Compilation:
    """Compile what `plan_for` made, as a call would run it: with the same memory reused."""
    ahead = forwarded_results(program) if call.forwards else {}
    same = {*ahead.values()}
    return compile_ahead(
        program,
        plan,
        target,
        donate=[i for i, x in enumerate(plan.arguments) if donate and x.carried and i not in same],
        results=[i for i in range(len(plan.results)) if i not in ahead],
        limits=limits,
        text=text,
    )
