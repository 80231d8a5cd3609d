"""From a strategy to a `Labelling` and a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from autoshard.plan import MeshShape, Plan, Spec, find_roles, make_plan
from autoshard.recipes._context import Context
from autoshard.recipes._data_parallel import data_parallel, replicate
from autoshard.recipes._expert import expert
from autoshard.recipes._flow import Flow, Unit
from autoshard.recipes._megatron import megatron
from autoshard.recipes._sequence import sequence
from autoshard.recipes._strategy import parse_strategy
from autoshard.recipes._sums import sum_dtypes
from autoshard.recipes._table import table
from autoshard.recipes._tensor import tensor
from autoshard.recipes._zero import zero1, zero2, zero3
from autoshard.recipes.pins import (
    fill_open,
    hold_pins,
    pinned_axes,
    read_pins,
    spread_pins,
    user_constraints,
    with_annotations,
)
from autoshard.recipes.propagate._recipe import by_propagation
from autoshard.rules import RuledProgram, with_rules
from autoshard.tracing import Program


@dataclass(frozen=True, slots=True)
class Recipe:
    """One term of the strategy grammar.

    Args:
        apply: Puts a unit on ops; returns notes for the user.
        order: Recipes with a smaller order go first: storage is cut after computation, and what
            `sequence` cuts stays major to what `megatron` cuts behind it, so that a partial result
            can be scattered.
    """

    apply: Callable[[Flow, Context, Unit], list[str]]
    order: int


RECIPES: dict[str, Recipe] = {
    "dp": Recipe(data_parallel, order=1),
    "expert": Recipe(expert, order=1),
    "megatron": Recipe(megatron, order=0),
    "propagate": Recipe(by_propagation, order=3),
    "replicate": Recipe(replicate, order=0),
    "sequence": Recipe(sequence, order=-1),
    "table": Recipe(table, order=1),
    "tensor": Recipe(tensor, order=0),
    "zero1": Recipe(zero1, order=2),
    "zero2": Recipe(zero2, order=2),
    "zero3": Recipe(zero3, order=2),
}
"""Recipes by name."""


def plan_by_recipe(
    program: Program | RuledProgram,
    mesh: MeshShape,
    strategy: str,
    *,
    pins: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Spec] | None = None,
    annotations: Mapping[str, PartitionSpec] | None = None,
    reduce_dtype: str | None = None,
) -> Plan:
    """Plan a program with a strategy.

    Args:
        program: The program.
        mesh: The mesh.
        strategy: Terms of `RECIPES`, as in ``zero3+tensor``.
        pins: Specs of arguments and results, which hold whatever the strategy says: path or
            pattern → `jax.sharding.PartitionSpec`. Constraints in the program hold as well.
        fixed: Specs of arguments by path that are shared with another function.
        annotations: What a model says of its arguments, by path: followed where the mesh has the
            axes and they divide, unless a pin says otherwise.
        reduce_dtype: The type in which gradients are combined, or None: the widest one of the
            parameters.

    Returns:
        The plan.

    Raises:
        StrategyError: The strategy cannot be read or does not fit the mesh.
        BatchError: The data cannot be cut over the axes of a data-parallel term.
        StateStructureError: The program returns its state with another structure.
        PinError: A pin or constraint cannot hold.
        OptionError: `reduce_dtype` is no type of floating-point numbers.
    """
    terms = parse_strategy(strategy, mesh, RECIPES)
    ruled = program if isinstance(program, RuledProgram) else with_rules(program)
    roles = find_roles(ruled)
    context = Context(ruled, roles)
    flow = Flow(ruled, mesh)
    held = user_constraints(ruled.program, mesh)
    held |= read_pins(ruled.program, mesh, roles, pins or {}, fixed or {})
    held, notes = with_annotations(ruled.program, mesh, roles, held, annotations or {})
    hold_pins(flow, context, held)
    pinned = pinned_axes(held.values())
    named = {axis for term in terms for axis in term.axes}
    notes += _unknown(ruled) + _unused(mesh, {*named, *pinned})
    # An axis that no term takes is the pins' own: storage is cut around it, as around `tensor`.
    spread_pins(flow, [axis for axis in pinned if axis not in named])
    for term in sorted(terms, key=lambda t: RECIPES[t.name].order):
        notes += RECIPES[term.name].apply(flow, context, term.axes)
    spread_pins(flow, pinned)
    fill_open(flow, held)
    for argument, result in roles.state_of_argument.items():
        flow.copy_label(argument, result)
    return make_plan(
        flow.labelling(),
        roles,
        strategy=strategy,
        notes=notes,
        sum_dtypes=sum_dtypes(context, reduce_dtype),
    )


def _unused(mesh: MeshShape, used: Container[str]) -> list[str]:
    """Axes of the mesh along which every device does the same."""
    return [
        f"no term of the strategy uses the axis {axis!r}: its {size} devices do the same work"
        for axis, size in mesh.axes.items()
        if axis not in used and size > 1
    ]


def _unknown(ruled: RuledProgram) -> list[str]:
    """Primitives without a rule, once each."""
    return [
        f"primitive {name!r} has no sharding rule: it runs replicated ({count}×); "
        "autoshard.register_rule teaches it one"
        for name, count in sorted(ruled.unknown.items())
    ]
