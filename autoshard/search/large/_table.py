"""Edges stacked by shape: costs of labellings and of single changes, for all nodes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoshard.search._model import Floats, Ints, Model

__all__ = ["Bucket", "EdgeTable"]


@dataclass(slots=True)
class Bucket:
    """Edges of one shape.

    Attributes:
        u: Lower ends, ``[edges]``.
        v: Upper ends, ``[edges]``.
        costs: Matrices, ``[edges, a, b]``; forbidden entries hold a large finite cost.
    """

    u: Ints
    v: Ints
    costs: Floats


class EdgeTable:
    """The pairwise part of a model in a form for local search.

    Forbidden entries cost `forbidden_cost`, more than everything else together can differ, so that
    local search can pass through labellings that pick some and is paid for leaving them.
    """

    def __init__(self, model: Model) -> None:
        """Stacks the matrices."""
        self.offsets: Ints = np.concatenate([[0], np.cumsum(model.sizes)])
        groups: dict[tuple[int, int], list[int]] = {}
        spread = 0.0
        for e, matrix in enumerate(model.edge_costs):
            groups.setdefault(matrix.shape, []).append(e)
        self.buckets: list[Bucket] = []
        for _, members in sorted(groups.items()):
            stack = np.stack([model.edge_costs[e] for e in members])
            finite = np.where(np.isfinite(stack), stack, 0.0)
            spread += float(np.ptp(finite, axis=(1, 2)).sum())
            ends = model.edge_nodes[members]
            self.buckets.append(Bucket(ends[:, 0].copy(), ends[:, 1].copy(), stack))
        spread += sum(float(np.ptp(c)) for c in model.costs)
        self.forbidden_cost = 2.0 * spread + 1.0
        for bucket in self.buckets:
            bucket.costs[np.isinf(bucket.costs)] = self.forbidden_cost

    def pairwise(self, labels: Ints) -> float:
        """Sum of edge costs under `labels`."""
        total = 0.0
        for b in self.buckets:
            total += float(b.costs[np.arange(len(b.u)), labels[b.u], labels[b.v]].sum())
        return total

    def conditional(
        self, node_costs: Floats, labels: Ints, free: np.ndarray | None = None
    ) -> Floats:
        """Cost of every strategy of every node while the other nodes keep their labels.

        Args:
            node_costs: Flat node costs.
            labels: The labels that others keep, ``[nodes]``.
            free: Nodes whose labels are open: edges between two of them are left out.

        Returns:
            Flat costs.
        """
        total = node_costs.copy()
        for b in self.buckets:
            keep = slice(None) if free is None else np.flatnonzero(~(free[b.u] & free[b.v]))
            u, v = b.u[keep], b.v[keep]
            if not len(u):
                continue
            costs = b.costs[keep] if free is not None else b.costs
            at = np.arange(len(u))
            rows, columns = np.arange(costs.shape[1]), np.arange(costs.shape[2])
            to_u = self.offsets[u, None] + rows
            to_v = self.offsets[v, None] + columns
            np.add.at(total, to_u.ravel(), costs[at, :, labels[v]].ravel())
            np.add.at(total, to_v.ravel(), costs[at, labels[u], :].ravel())
        return total
