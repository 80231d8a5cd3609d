"""Dominance: a strategy goes when another one is never worse, whatever the neighbours do.

Strategy ``q`` of a node dominates ``p`` if ``cost(q) - cost(p)`` plus the worst difference that
each edge can add is at most zero, and ``q`` needs no more memory (and pushes no hinge term up).
This is Goldstein's criterion (Biophys. J. 66, 1994) with resources. Dominated strategies of
different nodes may go at once, because the worst differences are over *all* strategies of the
neighbours; among equals the lowest index stays.
"""

from __future__ import annotations

import numpy as np

from autoshard.search._model import Floats, Lift, Model
from autoshard.search.presolve._restrict import restrict

__all__ = ["drop_dominated"]

_STACK_CELLS = 2**24
_WIDEST = 256


def drop_dominated(model: Model) -> tuple[Model, Lift] | None:
    """Drops dominated strategies.

    Returns:
        The smaller model and its lift, or None if nothing is dominated. Needs arc consistency.
    """
    sizes = model.sizes
    # worst[i][q, p]: the most that taking q instead of p can add. Very wide nodes are left alone.
    worst: list[Floats | None] = [
        c[:, None] - c[None, :] if 1 < len(c) <= _WIDEST else None for c in model.costs
    ]
    _forbid_by_hinges(model, worst)
    for n, v in zip(model.usage.node.tolist(), model.usage.vectors, strict=True):
        table = worst[n]
        if table is not None:
            table[v[:, None] > v[None, :]] = np.inf
    _add_edges(model, worst, sizes.tolist())
    keep = {}
    for i, table in enumerate(worst):
        if table is None:
            continue
        beats = table <= 0
        equal = beats & beats.T
        lower = np.tri(len(table), k=-1, dtype=np.bool_)
        # beats[q, p] with q < p settles a tie; the diagonal never counts.
        dominated = ((beats & ~equal) | (equal & lower.T)).any(0)
        if dominated.any():
            keep[i] = np.flatnonzero(~dominated)
    return restrict(model, keep, "dominance") if keep else None


def _forbid_by_hinges(model: Model, worst: list[Floats | None]) -> None:
    for hinge in model.hinges:
        for node, vector in hinge.node_terms.items():
            table = worst[node]
            if table is not None:
                table[vector[:, None] > vector[None, :]] = np.inf
        for pair in hinge.edge_terms:
            for node in pair:
                worst[node] = None


def _add_edges(model: Model, worst: list[Floats | None], sizes: list[int]) -> None:
    by_shape: dict[tuple[int, int], list[int]] = {}
    for e, matrix in enumerate(model.edge_costs):
        by_shape.setdefault(matrix.shape, []).append(e)
    for (rows, columns), members in by_shape.items():
        step = max(1, _STACK_CELLS // (rows * columns * max(rows, columns)))
        for start in range(0, len(members), step):
            part = members[start : start + step]
            stack = np.stack([model.edge_costs[e] for e in part])
            for side, table in ((0, stack), (1, stack.transpose(0, 2, 1))):
                nodes = model.edge_nodes[part, side].tolist()
                live = [
                    k for k, n in enumerate(nodes) if (w := worst[n]) is not None and _hopeful(w)
                ]
                if not live:
                    continue
                extra = _worst_difference(table[live])
                for k, difference in zip(live, extra, strict=True):
                    target = worst[nodes[k]]
                    if target is not None:
                        with np.errstate(invalid="ignore"):
                            target += difference
                        # inf - inf: what resources rule out, no edge can bring back.
                        target[np.isnan(target)] = np.inf


def _hopeful(table: Floats) -> bool:
    """Whether any pair could still be dominated: infinite entries never come back."""
    return bool(np.isfinite(table).sum() > len(table))


def _worst_difference(table: Floats) -> Floats:
    """``max over columns of table[q] - table[p]``; pairs that ``p`` forbids never matter."""
    with np.errstate(invalid="ignore"):
        difference = table[:, :, None, :] - table[:, None, :, :]
    # inf - inf: q is forbidden where p is, so that column cannot hurt. x - inf is -inf already.
    difference[np.isnan(difference)] = -np.inf
    return difference.max(-1)
