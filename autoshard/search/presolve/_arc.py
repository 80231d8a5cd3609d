"""Arc consistency: a strategy stays only if every edge offers it a partner.

Forbidden entries are infinite. Dropping unsupported strategies until nothing changes (AC-3,
Mackworth 1977) keeps every feasible labelling, and leaves every node cost and at least one entry
per row and column of every matrix finite: what message passing needs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoshard.search._model import Lift, Model
from autoshard.search.presolve._restrict import restrict

__all__ = ["NoLabellingError", "arc_consistency"]


class NoLabellingError(Exception):
    """Forbidden entries leave a node of the model without any strategy.

    Attributes:
        node: The node, in the numbering of the model at hand.
    """

    def __init__(self, node: int) -> None:
        """Remembers the node."""
        self.node = node
        super().__init__(f"node {node} has no strategy left")


def arc_consistency(model: Model) -> tuple[Model, Lift] | None:
    """Drops strategies that no labelling without infinite cost can use.

    Returns:
        The smaller model and its lift, or None if nothing is to be dropped.

    Raises:
        NoLabellingError: If a node is left without strategies.
    """
    sizes = model.sizes
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    alive: NDArray[np.bool_] = np.isfinite(np.concatenate(model.costs))
    buckets = _forbidding_edges(model, offsets)
    changed = True
    while changed:
        _refuse_empty(alive, offsets)
        changed = False
        for allowed, rows, columns in buckets:
            live = alive[columns]
            supported = np.any(allowed & live[:, None, :], axis=2)
            if not supported[alive[rows]].all():
                alive[rows[~supported]] = False
                changed = True
            live = alive[rows]
            supported = np.any(allowed & live[:, :, None], axis=1)
            if not supported[alive[columns]].all():
                alive[columns[~supported]] = False
                changed = True
    if alive.all():
        return None
    dead_nodes = np.unique(np.searchsorted(offsets, np.flatnonzero(~alive), side="right") - 1)
    keep = {i: np.flatnonzero(alive[offsets[i] : offsets[i + 1]]) for i in dead_nodes.tolist()}
    return restrict(model, keep, "arc consistency")


def _forbidding_edges(
    model: Model, offsets: NDArray[np.int64]
) -> list[tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]]:
    """Edges that forbid anything, stacked by shape, with the flat positions of both ends."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for e, matrix in enumerate(model.edge_costs):
        # The sum is infinite exactly where an entry is: one pass, no temporary.
        if not np.isfinite(matrix.sum()):
            by_shape.setdefault(matrix.shape, []).append(e)
    stacked = []
    for (rows, columns), members in by_shape.items():
        step = max(1, 2**24 // (rows * columns))
        for start in range(0, len(members), step):
            part = members[start : start + step]
            allowed = np.stack([np.isfinite(model.edge_costs[e]) for e in part])
            ends = model.edge_nodes[part]
            u = offsets[ends[:, 0], None] + np.arange(rows)
            v = offsets[ends[:, 1], None] + np.arange(columns)
            stacked.append((allowed, u, v))
    return stacked


def _refuse_empty(alive: NDArray[np.bool_], offsets: NDArray[np.int64]) -> None:
    left = np.add.reduceat(alive.astype(np.int64), offsets[:-1])
    if not left.all():
        raise NoLabellingError(int(np.argmin(left)))
