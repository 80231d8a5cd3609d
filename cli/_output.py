"""Results on stdout: tables for people, JSON for machines."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from autoshard.cli._plan_table import plan_table
from autoshard.plan import LeafPlan, Plan, human_bytes, totals

_PIPE_WIDTH = 132  # columns


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object."""
    print(json.dumps(value, indent=2))


def print_plan(plan: Plan, memory_bytes: int | None, *, every_leaf: bool = False) -> None:
    """Prints a plan's table and totals, as wide as the terminal or else wide enough to read.

    Args:
        plan: The plan.
        memory_bytes: Memory of a device, or None if unknown.
        every_leaf: Give each leaf its own row, instead of one to those that differ in a layer's
            number only.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(plan_table(plan, width=console.width, every_leaf=every_leaf))
    for line in (*totals(plan), memory_line(plan, memory_bytes)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def memory_line(plan: Plan, memory_bytes: int | None) -> str:
    """The plan's bytes per device against the memory of a device."""
    used = human_bytes(plan.bytes_per_device)
    if memory_bytes is None:
        return f"{used} of arguments per device; this device does not tell its memory"
    share = plan.bytes_per_device / memory_bytes
    verdict = "" if share <= 1 else ": does not fit"
    return f"{used} of {human_bytes(memory_bytes)} memory per device ({share:.1%}){verdict}"


def plan_as_json(plan: Plan, memory_bytes: int | None) -> dict[str, Any]:
    """A plan as plain data.

    Args:
        plan: The plan.
        memory_bytes: Memory of a device, or None if unknown.

    Returns:
        Mesh, strategy, every argument and result leaf, and totals in bytes.
    """
    return {
        "strategy": plan.strategy,
        "mesh": dict(plan.mesh_shape),
        "arguments": [_leaf(leaf) for leaf in plan.arguments],
        "results": [_leaf(leaf) for leaf in plan.results],
        "bytes_per_device": plan.bytes_per_device,
        "device_memory_bytes": memory_bytes,
        "notes": list(plan.notes),
    }


def _leaf(leaf: LeafPlan) -> dict[str, Any]:
    return {
        "path": leaf.path,
        "shape": list(leaf.shape),
        "dtype": leaf.dtype,
        "spec": [list(axes) for axes in leaf.spec.dims],
        "bytes": leaf.nbytes,
        "bytes_per_device": leaf.bytes_per_device,
        "reason": leaf.reason,
    }
