"""A plan as a table that people can read: alike leaves share a row.

Layers that differ in their number only are one row, and an optimizer's moments stand beside the
parameter whose sharding they follow. A GPT of 48 layers takes as many rows as one of two.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from autoshard.plan import LeafPlan, Plan, human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Leaves of one shape, type, spec and reason, whose paths differ in numbers only.

    Attributes:
        path: Their path, with `{0-11}` or `{0,4}` where they differ.
        reason: Their reason, likewise.
        leaves: The leaves.
        followers: Prefixes of the paths of leaves that follow these in all respects.
    """

    path: str
    reason: str
    leaves: tuple[LeafPlan, ...]
    followers: tuple[str, ...] = ()

    @property
    def bytes_per_device(self) -> int:
        """Bytes of all the leaves on each device."""
        return sum(leaf.bytes_per_device for leaf in self.leaves)


def plan_table(plan: Plan, *, width: int, every_leaf: bool = False) -> Table:
    """The arguments of a plan as a table.

    Args:
        plan: The plan.
        width: Columns of the console.
        every_leaf: Give each leaf its own row.

    Returns:
        Path, shape and type, spec, bytes per device and reason, with totals below.
    """
    table = Table(
        title=f"{plan.name}: {plan.strategy} on {plan.mesh}",
        title_justify="left",
        show_footer=True,
    )
    whole = sum(leaf.nbytes for leaf in plan.arguments)
    rows = _each(plan.arguments) if every_leaf else group_leaves(plan.arguments)
    table.add_column(
        "path",
        footer=f"{len(plan.arguments)} arguments",
        overflow="fold",
        # Where a path fits into a third of the width, let the reasons wrap instead.
        no_wrap=all(len(row.path) <= width // 3 for row in rows),
    )
    table.add_column("array", footer=human_bytes(whole), overflow="fold")
    table.add_column("spec", overflow="fold")
    table.add_column("per device", justify="right", footer=human_bytes(plan.bytes_per_device))
    table.add_column("why", overflow="fold")
    for row in rows:
        leaf, count = row.leaves[0], len(row.leaves)
        array = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        table.add_row(
            "\n".join([row.path, *_followers_text(row.followers)]),
            array if count == 1 else f"{count} x {array}",
            str(leaf.spec),
            human_bytes(row.bytes_per_device),
            row.reason,
        )
    return table


def _followers_text(prefixes: Sequence[str]) -> list[str]:
    """Lines such as `+ state/opt_state/0/{mu,nu}/...`."""
    names: dict[str, list[str]] = {}
    for prefix in prefixes:
        folder, slash, name = prefix.rpartition("/")
        names.setdefault(folder + slash, []).append(name)
    return [
        f"+ {folder}{found[0] if len(found) == 1 else '{' + ','.join(found) + '}'}/..."
        for folder, found in names.items()
    ]


def group_leaves(leaves: Iterable[LeafPlan]) -> list[Row]:
    """Puts leaves into rows.

    Args:
        leaves: Leaves of a plan.

    Returns:
        Rows, in the order of their first leaves.
    """
    groups: dict[object, list[LeafPlan]] = {}
    for leaf in leaves:
        # A reason may name another leaf of the same layer.
        texts = (re.sub(r"\d+", "#", text) for text in (leaf.path, leaf.reason))
        groups.setdefault((*texts, leaf.shape, leaf.dtype, leaf.spec), []).append(leaf)
    return _join_followers([row for group in groups.values() for row in _numbered(group)])


def _each(leaves: Iterable[LeafPlan]) -> list[Row]:
    return [Row(path=leaf.path, reason=leaf.reason, leaves=(leaf,)) for leaf in leaves]


def _numbered(leaves: Sequence[LeafPlan]) -> list[Row]:
    # Texts and numbers in turn: a/b_, 0, /c, ...
    columns = list(zip(*(re.split(r"(\d+)", leaf.path) for leaf in leaves), strict=True))
    if math.prod(len(set(column)) for column in columns) != len(leaves):
        return _each(leaves)  # not every combination is there, so the braces would claim too much
    path, reason, before = "", leaves[0].reason, ""
    for column in columns:
        part = column[0]
        if len(set(column)) > 1:
            numbers = _span(sorted({int(number) for number in column}))
            # The reason holds other numbers too: only one after the same word is this layer's.
            word = re.escape("".join(re.findall(r"[^/]+/?$", before)))
            reason = re.sub(rf"(?<={word}){part}\b", numbers, reason) if word else reason
            part = numbers
        path, before = path + part, part
    return [Row(path=path, reason=reason, leaves=tuple(leaves))]


def _span(numbers: list[int]) -> str:
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def _join_followers(rows: list[Row]) -> list[Row]:
    """Moves each row that follows another one, with the same arrays and spec, into that row."""
    by_leaf = {leaf.path: row for row in rows for leaf in row.leaves}
    joined = {row.path: row for row in rows}
    for row in rows:
        leaders = (by_leaf[path] for path in row.leaves[0].follows if path in by_leaf)
        leader = next((leader for leader in leaders if _follows(row, leader)), None)
        if leader is None:
            continue
        del joined[row.path]
        old = joined.get(leader.path)
        if old is None:  # the leader follows a third row and has moved there: follow it along
            joined[row.path] = row
            continue
        prefix = row.path.removesuffix(_common_suffix(row.path, leader.path))
        joined[leader.path] = Row(
            path=old.path,
            reason=old.reason,
            leaves=(*old.leaves, *row.leaves),
            followers=(*old.followers, prefix),
        )
    return list(joined.values())


def _follows(row: Row, leader: Row) -> bool:
    """Whether each leaf follows its counterpart and has the same array and spec."""

    def what(row: Row) -> object:
        leaf = row.leaves[0]
        return leaf.shape, leaf.dtype, leaf.spec, len(row.leaves)

    pairs = zip(row.leaves, leader.leaves, strict=False)
    return what(row) == what(leader) and all(other.path in leaf.follows for leaf, other in pairs)


def _common_suffix(one: str, other: str) -> str:
    """The longest common end of two paths that starts at a slash."""
    ends = zip(one.split("/")[::-1], other.split("/")[::-1], strict=False)
    common = [name for name, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends)]
    return "/".join(["", *common[::-1]]) if common else ""
