"""Proof of a halo factor: no part of the result needs all of the operands.

The two sides of a halo factor may have different sizes, and what a device needs may lie with any
other one (a reversal), so there is no general way to run the shards. What makes it a halo is that
dependence is local, and that can be measured: change the operands at one position along the factor
and see which parts of the results change.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from autoshard.errors import RuleViolationError
from autoshard.rules.oracle._op import Arrays, Op

TRIALS = 6
"""Base points from which each position is changed: a maximum hides most changes at one point."""
POSITIONS = 16
"""At most so many positions are told apart along a dimension; longer ones are taken in runs."""


def prove_by_borders(op: Op, factor: str, draw: Callable[[], Arrays]) -> float:
    """Measure how much of the operands each part of the results needs.

    Args:
        op: The op.
        factor: Name of a halo factor.
        draw: Draws operands. Those that are always the same hide what depends on them.

    Returns:
        The largest share of the operands' positions that one part of a result needs.

    Raises:
        RuleViolationError: Some part needs all of them.
    """
    places = list(op.rule.places(factor))
    sources = [(i, d) for side, i, d in places if side == "operand"]
    targets = [(i, d) for side, i, d in places if side == "result"]
    if not sources or not targets:
        raise _violation(op, factor, "it has to stand in an operand and in a result")
    runs = {(i, d): _runs(op.operands[i].shape[d]) for i, d in sources}
    # needs[target, part] counts the positions, over all operands, on which the part depends.
    needs = {(t, p): 0 for t in targets for p in range(len(_runs(op.results[t[0]].shape[t[1]])))}
    total = sum(int(r.stop - r.start) for parts in runs.values() for r in parts)
    if total <= 2:
        return 0.0  # two single elements: there is nothing to be local about
    bases = [draw() for _ in range(TRIALS)]
    outputs = [op.run(base) for base in bases]
    others = [draw() for _ in range(TRIALS)]
    for (i, d), parts in runs.items():
        for run in parts:
            changed: set[tuple[tuple[int, int], int]] = set()
            for base, out, other in zip(bases, outputs, others, strict=True):
                now = op.run(_with_run(base, other, i, d, run))
                changed |= _changed_parts(targets, out, now)
            for key in changed:
                needs[key] += run.stop - run.start
    worst = max(needs.values(), default=0)
    if worst >= total:
        target, part = max(needs, key=needs.__getitem__)
        raise _violation(
            op,
            factor,
            f"part {part} of result {target[0]} along dimension {target[1]} depends on all "
            f"{total} positions of the operands, not on its surroundings",
        )
    return worst / total


def _runs(size: int) -> list[slice]:
    """A dimension as at most `POSITIONS` runs of neighbouring elements."""
    edges = np.linspace(0, size, min(size, POSITIONS) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _with_run(base: Arrays, other: Arrays, i: int, d: int, run: slice) -> Arrays:
    mixed = base[i].copy()
    where = (slice(None),) * d + (run,)
    mixed[where] = other[i][where]
    return (*base[:i], mixed, *base[i + 1 :])


def _changed_parts(
    targets: list[tuple[int, int]], before: Arrays, after: Arrays
) -> set[tuple[tuple[int, int], int]]:
    found: set[tuple[tuple[int, int], int]] = set()
    for i, d in targets:
        same = (before[i] == after[i]) | ((before[i] != before[i]) & (after[i] != after[i]))
        for part, run in enumerate(_runs(before[i].shape[d])):
            if not np.all(same[(slice(None),) * d + (run,)]):
                found.add(((i, d), part))
    return found


def _violation(op: Op, factor: str, problem: str) -> RuleViolationError:
    return RuleViolationError(
        primitive=str(op.primitive),
        rule=op.rule.text,
        factor=factor,
        kind="halo",
        problem=problem,
    )
