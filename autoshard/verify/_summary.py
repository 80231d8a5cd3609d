"""Sums over collectives, and a plain table of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoshard.errors import HloLoopError
from autoshard.verify._collectives import Collective, Kind

Axes = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Collectives of one kind over the same axes, summed over one run of the program.

    Attributes:
        sites: Instructions in the text.
        count: Executions; None if that of any is unknown, and so are the bytes.
        operand_bytes: Per device, over all executions.
        result_bytes: Per device, over all executions.
        traffic_bytes: Bytes that a device sends, over all executions.
    """

    sites: int
    count: int | None
    operand_bytes: int | None
    result_bytes: int | None
    traffic_bytes: float | None


def summarize(
    found: Iterable[Collective], *, scalars: bool = True, logical: bool = False
) -> Mapping[tuple[Kind, Axes], Total]:
    """Sum collectives by kind and mesh axes.

    Args:
        found: From `collectives`.
        scalars: Whether those that carry nothing but single numbers count.
        logical: Whether a sliced all-reduce counts as the reduce-scatter that it stands for. Its
            bytes stay those of the all-reduce that runs.

    Returns:
        Totals by (kind, axes), sorted.
    """
    groups: dict[tuple[Kind, Axes], list[Collective]] = {}
    for one in found:
        if scalars or not one.is_scalar:
            key = (one.logical_kind if logical else one.kind, one.axes)
            groups.setdefault(key, []).append(one)
    return {key: _total(groups[key]) for key in sorted(groups)}


def traffic_by_axes(
    found: Iterable[Collective], *, unknown_count: int | None = None
) -> Mapping[Axes, float]:
    """Bytes that each device sends in one run of the program, by the mesh axes it sends along.

    Args:
        found: From `collectives`.
        unknown_count: Executions to assume for a collective in a loop of unknown trip count.

    Returns:
        Traffic in bytes by axes, sorted.

    Raises:
        HloLoopError: If an execution count is unknown and none is given to assume.
    """
    traffic: dict[Axes, float] = {}
    for one in found:
        count = unknown_count if one.count is None else one.count
        if count is None:
            raise HloLoopError(one.name, one.op_name)
        traffic[one.axes] = traffic.get(one.axes, 0.0) + count * one.traffic_bytes
    return dict(sorted(traffic.items()))


def format_table(found: Iterable[Collective], *, scalars: bool = True) -> str:
    """A table in plain text: one row per kind and axes, bytes per device and run.

    Args:
        found: From `collectives`.
        scalars: Whether those that carry nothing but single numbers count.
    """
    found = tuple(found)
    totals = summarize(found, scalars=scalars)
    rows: list[tuple[str, ...]] = [
        ("collective", "axes", "sites", "runs", "operands", "results", "traffic")
    ]
    for (kind, axes), total in totals.items():
        runs = "?" if total.count is None else str(total.count)
        sizes = (total.operand_bytes, total.result_bytes, total.traffic_bytes)
        rows.append((kind, ",".join(axes) or "-", str(total.sites), runs, *map(_bytes, sizes)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if any(total.count is None for total in totals.values()):
        lines.append("? = in a loop whose trip count the text does not determine")
    if any(one.conditional and (scalars or not one.is_scalar) for one in found):
        lines.append("branches of conditionals are counted as if all were taken")
    return "\n".join(lines)


def _total(group: list[Collective]) -> Total:
    known = [(one, one.count) for one in group if one.count is not None]
    if len(known) < len(group):
        return Total(
            sites=len(group), count=None, operand_bytes=None, result_bytes=None, traffic_bytes=None
        )
    return Total(
        sites=len(group),
        count=sum(count for _, count in known),
        operand_bytes=sum(count * one.operand_bytes for one, count in known),
        result_bytes=sum(count * one.result_bytes for one, count in known),
        traffic_bytes=sum(count * one.traffic_bytes for one, count in known),
    )


def _bytes(n: float | None) -> str:
    if n is None:
        return "?"
    if n < 1024:
        return f"{n:.0f} B"
    power = min(int(math.log2(n)) // 10, 4)
    return f"{n / 1024**power:.1f} {'KMGT'[power - 1]}iB"
