"""Elimination of nodes with at most two neighbours, with exact back-substitution.

A node without memory and outside every hinge term is minimised out: for each labelling of its
neighbours it takes its cheapest strategy, so a leaf becomes a node cost and a node on a path
becomes an edge (one step of bucket elimination, Dechter 1999, with at most two neighbours so that
nothing larger than a matrix arises). Going back up, each node picks its minimum given the others.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from autoshard.search._model import Floats, Hinge, Ints, Lift, Model, Usage

__all__ = ["eliminate"]

_LARGEST_TABLE = 4_000_000


@dataclass(slots=True)
class _Gone:
    """A node that was minimised out: its costs and its matrices, own strategies first."""

    node: int
    cost: Floats
    neighbours: list[tuple[int, Floats]]


def eliminate(model: Model) -> tuple[Model, Lift] | None:
    """Minimises out every node with at most two neighbours that no resource holds.

    Returns:
        The smaller model and its lift, or None if no node can go. Needs arc consistency.
    """
    held = np.zeros(len(model.costs), np.bool_)
    held[model.usage.node] = True
    for hinge in model.hinges:
        for node in (*hinge.node_terms, *(n for pair in hinge.edge_terms for n in pair)):
            held[node] = True
    costs = list(model.costs)
    around: list[dict[int, Floats]] = [{} for _ in costs]
    for matrix, (u, v) in zip(model.edge_costs, model.edge_nodes.tolist(), strict=True):
        around[u][v] = matrix
        around[v][u] = matrix.T
    gone, constant = _run(costs, around, held)
    if not gone:
        return None
    out = {g.node for g in gone}
    stay = np.array([i for i in range(len(costs)) if i not in out], np.int64)
    position = np.full(len(costs), -1, np.int64)
    position[stay] = np.arange(len(stay))
    pairs = [(u, v) for u in stay.tolist() for v in around[u] if u < v]
    usage = model.usage
    smaller = Model(
        [costs[i] for i in stay.tolist()],
        position[np.array(pairs, np.int64).reshape(-1, 2)],
        [around[u][v] for u, v in pairs],
        Usage(position[usage.node], usage.lo, usage.hi, usage.vectors, usage.capacity, usage.times),
        [_renumber(h, position) for h in model.hinges],
        model.constant + constant,
    )

    def up(labels: Ints) -> Ints:
        lifted = np.zeros(len(position), np.int64)
        lifted[stay] = labels
        for g in reversed(gone):
            total = g.cost
            for other, matrix in g.neighbours:
                total = total + matrix[:, lifted[other]]
            lifted[g.node] = int(np.argmin(total))
        return lifted

    return smaller, Lift("elimination", up, lambda labels: labels[stay])


def _run(
    costs: list[Floats], around: list[dict[int, Floats]], held: np.ndarray
) -> tuple[list[_Gone], float]:
    """Eliminates in place, cheapest node first; never the last node."""
    constant = 0.0
    gone: list[_Gone] = []
    queue = [
        (len(around[i]), len(c), i)
        for i, c in enumerate(costs)
        if not held[i] and len(around[i]) <= 2
    ]
    heapq.heapify(queue)
    done = held.copy()
    while queue and len(gone) < len(costs) - 1:
        degree, _, node = heapq.heappop(queue)
        if done[node] or degree != len(around[node]):
            continue
        neighbours = sorted(around[node].items())
        cost = costs[node]
        if degree == 2:
            (a, to_a), (b, to_b) = neighbours
            if to_a.shape[1] * to_b.size > _LARGEST_TABLE:
                continue
            table = ((cost[:, None] + to_a)[:, :, None] + to_b[:, None, :]).min(0)
            table = around[a][b] + table if b in around[a] else table
            around[a][b], around[b][a] = table, table.T
        elif degree == 1:
            ((a, to_a),) = neighbours
            costs[a] = costs[a] + (cost[:, None] + to_a).min(0)
        else:
            constant += float(cost.min())
        done[node] = True
        gone.append(_Gone(node, cost, neighbours))
        for other, _ in neighbours:
            del around[other][node]
            if not done[other] and len(around[other]) <= 2:
                heapq.heappush(queue, (len(around[other]), len(costs[other]), other))
        around[node] = {}
    return gone, constant


def _renumber(hinge: Hinge, position: Ints) -> Hinge:
    return Hinge(
        hinge.weight,
        hinge.offset,
        {int(position[n]): v for n, v in hinge.node_terms.items()},
        {(int(position[u]), int(position[v])): m for (u, v), m in hinge.edge_terms.items()},
    )
