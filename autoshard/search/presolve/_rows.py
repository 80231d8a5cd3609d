"""Time-interval reduction: only maximal live sets can bind.

Of two neighbouring points in time, the one whose live set is contained in the other's needs at most
as much memory, so its row is implied (usages are never negative). What every strategy of a node
uses at least is taken off the capacity, rows that not even the hungriest labelling can fill are
dropped, and entries of one node with one range are added up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoshard.search._model import Floats, Ints, Lift, Model, Usage

__all__ = ["reduce_rows"]

Flags = NDArray[np.bool_]


def reduce_rows(model: Model) -> tuple[Model, Lift] | None:
    """Reduces the memory rows.

    Returns:
        The model with fewer rows or entries and the identity lift, or None if nothing changed.
    """
    old = model.usage
    if not old.rows:
        return None
    least = np.array([v.min() for v in old.vectors])
    most = np.array([v.max() for v in old.vectors])
    keep = _maximal(old) & (old.spread(most) > old.capacity)
    capacity = old.capacity - old.spread(least)
    varying = most > least
    if keep.all() and varying.all() and not least.any() and not _repeats(old):
        return None
    usage = _select_rows(old, keep, capacity, least, varying)
    while usage.rows:
        # Constants gone, live sets are smaller, so further rows may now be contained in others.
        keep = _maximal(usage)
        if keep.all():
            break
        count = len(usage.vectors)
        usage = _select_rows(usage, keep, usage.capacity, np.zeros(count), np.ones(count, np.bool_))
    smaller = Model(
        model.costs, model.edge_nodes, model.edge_costs, usage, model.hinges, model.constant
    )
    return smaller, Lift("memory rows", lambda x: x, lambda x: x)


def _maximal(usage: Usage) -> Flags:
    """Rows whose live set is not contained in a neighbour's with no more room."""
    starts = np.bincount(usage.lo, minlength=usage.rows + 1)[: usage.rows] > 0
    ends = np.bincount(usage.hi, minlength=usage.rows + 1)[1:] > 0
    roomier_left = np.concatenate([[False], usage.capacity[1:] >= usage.capacity[:-1]])
    roomier_right = np.concatenate([usage.capacity[:-1] >= usage.capacity[1:], [False]])
    in_left = ~starts & roomier_left
    # Of equal neighbours the first stays: a row may only lean on one that does not lean on it.
    in_right = ~ends & roomier_right & ~np.append(in_left[1:], False)
    return ~(in_left | in_right)


def _repeats(usage: Usage) -> bool:
    keys = np.stack([usage.node, usage.lo, usage.hi], axis=1)
    return len(np.unique(keys, axis=0)) < len(keys)


def _select_rows(
    usage: Usage, keep: Flags, capacity: Floats, least: Floats, varying: Flags
) -> Usage:
    """Drops rows and constant entries, subtracts `least`, merges entries with equal ranges."""
    before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
    lo, hi = before[usage.lo], before[usage.hi]
    merged: dict[tuple[int, int, int], Floats] = {}
    for e in np.flatnonzero(varying & (lo < hi)).tolist():
        key = (int(usage.node[e]), int(lo[e]), int(hi[e]))
        vector = usage.vectors[e] - least[e] if least[e] else usage.vectors[e]
        merged[key] = merged[key] + vector if key in merged else vector
    keys = np.array(sorted(merged), np.int64).reshape(-1, 3)
    vectors = [merged[key] for key in sorted(merged)]
    node, lo, hi = _columns(keys)
    return Usage(node, lo, hi, vectors, capacity[keep], usage.times[keep])


def _columns(keys: Ints) -> tuple[Ints, Ints, Ints]:
    return keys[:, 0].copy(), keys[:, 1].copy(), keys[:, 2].copy()
