"""Results on stdout: tables for people, JSON for machines."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from autoshard.cli._budget import Budget
from autoshard.cli._plan_table import plan_table
from autoshard.plan import LeafPlan, Plan, human_bytes, totals

_PIPE_WIDTH = 132  # columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A plan against the memory of a device.

    Attributes:
        plan: The plan.
        budget: The memory.
        compilation: What the compiler said, if it was asked.
    """

    plan: Plan
    budget: Budget
    compilation: Any = None

    @property
    def nbytes(self) -> float:
        """What a device needs: by the compiler's word, or at least the arguments."""
        if self.compilation is not None:
            return self.compilation.peak_bytes
        return self.plan.bytes_per_device

    @property
    def fits(self) -> bool | None:
        """Whether a device has room, as far as is known; None where its memory is not known."""
        if self.compilation is not None and self.compilation.shortage is not None:
            return False
        return None if self.budget.nbytes is None else self.nbytes <= self.budget.nbytes


def judge(plan: Plan, budget: Budget, compilation: Any = None) -> Verdict:
    """Compares a plan, and what it compiled to, with a budget."""
    return Verdict(plan=plan, budget=budget, compilation=compilation)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON object."""
    print(json.dumps(value, indent=2))


def print_line(text: str) -> None:
    """Prints one line, as long as it is."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Prints a table, as wide as the terminal or else wide enough to read."""
    _console().print(table)


def print_plan(plan: Plan, *, every_leaf: bool = False) -> None:
    """Prints a plan's table and totals, as wide as the terminal or else wide enough to read.

    Args:
        plan: The plan.
        every_leaf: Give each leaf its own row, instead of one to those that differ in a layer's
            number only.
    """
    console = _console()
    console.print(plan_table(plan, width=console.width, every_leaf=every_leaf))
    for line in totals(plan):
        print_line(line)


def print_verdict(verdict: Verdict) -> None:
    """Prints what a device needs of what it has."""
    for line in verdict_lines(verdict):
        print_line(line)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def verdict_lines(verdict: Verdict) -> list[str]:
    """The arguments, and the compiler's peak, against the memory of a device."""
    lines = [memory_line(verdict.plan, verdict.budget)]
    compilation = verdict.compilation
    if compilation is None:
        return lines
    target, shortage = compilation.target, compilation.shortage
    if shortage is not None:
        needed, there = human_bytes(shortage.needed_bytes), human_bytes(shortage.available_bytes)
        return [
            *lines,
            f"compiled for {target}: out of memory, the compiler needs {needed} of {there} per "
            f"device: does not fit",
            f"  {shortage.message}",
        ]
    line = (
        f"compiled for {target} ({compilation.device_kind}) in {compilation.time_s:.1f} s: "
        f"peak {human_bytes(compilation.peak_bytes)} per device"
    )
    budget = verdict.budget.nbytes
    if budget is not None:
        share = f"{compilation.peak_bytes / budget:.1%}"
        fits = "fits" if verdict.fits else "does not fit"
        line += f" of {human_bytes(budget)} ({share}): {fits}"
    return [*lines, line]


def memory_line(plan: Plan, budget: Budget) -> str:
    """The plan's bytes per device against the memory of a device."""
    used = human_bytes(plan.bytes_per_device)
    if budget.nbytes is None:
        return f"{used} of arguments per device; this device does not tell its memory"
    share = plan.bytes_per_device / budget.nbytes
    verdict = "" if share <= 1 else ": does not fit"
    whose = f" ({budget.source})" if budget.asked else ""
    return f"{used} of {human_bytes(budget.nbytes)} memory per device{whose} ({share:.1%}){verdict}"


def plan_as_json(plan: Plan, verdict: Verdict) -> dict[str, Any]:
    """A plan as plain data.

    Args:
        plan: The plan.
        verdict: Its memory.

    Returns:
        Mesh, strategy, every argument and result leaf, totals in bytes, and what the compiler said.
    """
    return {
        "strategy": plan.strategy,
        "mesh": dict(plan.mesh_shape),
        "arguments": [leaf_as_json(leaf) for leaf in plan.arguments],
        "results": [leaf_as_json(leaf) for leaf in plan.results],
        "bytes_per_device": plan.bytes_per_device,
        "device_memory_bytes": verdict.budget.nbytes,
        "fits": verdict.fits,
        "compiled": _compiled(verdict.compilation),
        "notes": list(plan.notes),
    }


def _compiled(compilation: Any) -> dict[str, Any] | None:
    if compilation is None:
        return None
    shortage = compilation.shortage
    return {
        "topology": compilation.target.text,
        "device_kind": compilation.device_kind,
        "peak_bytes": compilation.peak_bytes,
        "time_s": compilation.time_s,
        "out_of_memory": shortage.message if shortage else None,
        **compilation.statistics,
    }


def leaf_as_json(leaf: LeafPlan) -> dict[str, Any]:
    """An argument or result as plain data."""
    return {
        "path": leaf.path,
        "shape": list(leaf.shape),
        "dtype": leaf.dtype,
        "spec": [list(axes) for axes in leaf.spec.dims],
        "bytes": leaf.nbytes,
        "bytes_per_device": leaf.bytes_per_device,
        "reason": leaf.reason,
        "follows": list(leaf.follows),
    }
