"""Planning and compiling a call for devices that are not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from autoshard.api._calls import Call
from autoshard.api._entry import forwarded_results
from autoshard.api._plan_call import PlanOptions, plan_call
from autoshard.lowering.ahead import Compilation, Limits, Target, compile_ahead
from autoshard.plan import Plan, parse_mesh
from autoshard.tracing import Program


def plan_for(
    function: Callable[..., Any],
    call: Call,
    target: Target,
    *,
    mesh: Any,
    options: PlanOptions,
    earlier: Sequence[Plan],
    notes: Sequence[str],
) -> tuple[Program, Plan]:
    """Trace and plan one call for a topology.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        target: The topology.
        mesh: The mesh, as `autoshard.parallelize` takes it.
        options: What was asked of the plan.
        earlier: Plans whose state this one shares.
        notes: What else the user should know.

    Returns:
        The program and its plan.
    """
    given = options.given
    shape = parse_mesh(mesh if given is None or mesh is not None else given.mesh, target.devices)
    auto = (AxisType.Auto,) * len(shape.names)
    abstract = AbstractMesh(shape.sizes, shape.names, axis_types=auto)
    return plan_call(
        function, call, abstract, options, earlier=earlier, notes=notes, hardware=target.text
    )


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
