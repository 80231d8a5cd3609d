"""A plan as text: pure formatting of what the plan stores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from autoshard.plan._plan import LeafPlan, Plan

WIDTH = 132
"""Columns of the plain-text form."""


def human_bytes(nbytes: float) -> str:
    """Bytes with a binary unit: ``1.50 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.2f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} TiB"


def plan_table(plan: Plan) -> Table:
    """The arguments of a plan as a rich table with totals.

    Args:
        plan: The plan.

    Returns:
        Path, dtype and shape, spec, bytes per device and reason of every argument.
    """
    table = Table(
        title=f"{plan.name}: {plan.strategy} on {plan.mesh}",
        title_justify="left",
        show_footer=True,
    )
    whole = sum(leaf.nbytes for leaf in plan.arguments)
    table.add_column("path", footer=f"{len(plan.arguments)} arguments", overflow="fold")
    table.add_column("array", footer=human_bytes(whole), overflow="fold")
    table.add_column("spec", overflow="fold")
    table.add_column(
        "per device", justify="right", footer=human_bytes(plan.bytes_per_device), no_wrap=True
    )
    table.add_column("why", overflow="fold")
    for leaf in plan.arguments:
        table.add_row(
            leaf.path, array_text(leaf), str(leaf.spec), human_bytes(leaf.bytes_per_device),
            leaf.reason,
        )  # fmt: skip
    return table


def array_text(leaf: LeafPlan) -> str:
    """Element type and shape: ``float32[768,3072]``."""
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def totals(plan: Plan) -> Sequence[str]:
    """Lines below the table: state against inputs, what stays replicated, notes."""
    state = sum(leaf.bytes_per_device for leaf in plan.state)
    replicated = [leaf for leaf in plan.arguments if leaf.spec.is_replicated]
    lines = [
        f"state {human_bytes(state)} per device, other arguments "
        f"{human_bytes(plan.bytes_per_device - state)} per device",
        f"{len(replicated)} of {len(plan.arguments)} arguments are replicated: "
        f"{human_bytes(sum(leaf.nbytes for leaf in replicated))} on every device",
    ]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def explain_plan(plan: Plan) -> str:
    """The whole plan as plain text."""
    stream = io.StringIO()
    console = Console(file=stream, width=WIDTH, color_system=None, force_terminal=False)
    console.print(plan_table(plan))
    for line in totals(plan):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines()) + "\n"


def explain_leaf(plan: Plan, leaf: LeafPlan) -> str:
    """One argument or result as plain text."""
    parts = leaf.spec.shards(plan.mesh)
    where = ", ".join(
        f"dimension {d} over {'×'.join(axes)}" for d, axes in enumerate(leaf.spec.dims) if axes
    )
    copies = plan.mesh.size // parts
    lines = [
        f"{leaf.path}: {array_text(leaf)}, {human_bytes(leaf.nbytes)}",
        f"  spec        {leaf.spec} on {plan.mesh}: {where or 'whole on every device'}",
        f"  per device  {human_bytes(leaf.bytes_per_device)} "
        f"({_count(parts, 'part', 'different parts')}, {_count(copies, 'copy', 'copies')} of each)",
        f"  why         {leaf.reason}",
    ]
    return "\n".join(lines) + "\n"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
