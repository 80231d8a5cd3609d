"""Nodes with one strategy, and edges that are sums: both fold into node costs.

A fixed node is a constant: its cost joins the model's constant, its matrices become costs of the
neighbours, its memory is taken off the capacity. A matrix that is a row vector plus a column vector
couples nothing: it is folded into its two ends and the edge disappears.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoshard.search._model import Floats, Hinge, Ints, Lift, Model, Usage

__all__ = ["fold_fixed"]


def fold_fixed(model: Model) -> tuple[Model, Lift] | None:
    """Folds fixed nodes and separable edges.

    Returns:
        The smaller model and its lift, or None if there is nothing to fold.
    """
    sizes = model.sizes
    fixed = sizes == 1
    if fixed.all():
        fixed[0] = False  # A model keeps at least one node, so that every later step has a graph.
    split = {
        e: parts
        for e, matrix in enumerate(model.edge_costs)
        if not fixed[model.edge_nodes[e]].any() and (parts := _separate(matrix)) is not None
    }
    if not fixed.any() and not split:
        return None
    costs = list(model.costs)
    ends, matrices = [], []
    for e, (u, v) in enumerate(model.edge_nodes.tolist()):
        matrix = model.edge_costs[e]
        if e in split:
            costs[u] = costs[u] + split[e][0]
            costs[v] = costs[v] + split[e][1]
        elif fixed[u]:
            costs[v] = costs[v] + matrix[0]
        elif fixed[v]:
            costs[u] = costs[u] + matrix[:, 0]
        else:
            ends.append((u, v))
            matrices.append(matrix)
    # A fixed node may have collected its share of an edge to another fixed node: read it last.
    constant = model.constant + float(sum(costs[i][0] for i in np.flatnonzero(fixed).tolist()))
    stay = np.flatnonzero(~fixed)
    position = np.full(len(sizes), -1, np.int64)
    position[stay] = np.arange(len(stay))
    smaller = Model(
        [costs[i] for i in stay.tolist()],
        position[np.array(ends, np.int64).reshape(-1, 2)],
        matrices,
        _usage(model.usage, fixed, position),
        [_hinge(h, fixed, position) for h in model.hinges],
        constant,
    )

    def up(labels: Ints) -> Ints:
        lifted = np.zeros(len(sizes), np.int64)
        lifted[stay] = labels
        return lifted

    return smaller, Lift("fixed nodes", up, lambda labels: labels[stay])


def _separate(matrix: Floats) -> tuple[Floats, Floats] | None:
    """Row and column vectors whose sums are exactly the matrix, if there are any."""
    if not np.isfinite(matrix.sum()):
        return None
    row, column = matrix[:, 0], matrix[0] - matrix[0, 0]
    # The last entry decides for nearly every matrix, without looking at the rest.
    if row[-1] + column[-1] != matrix[-1, -1]:
        return None
    return (row, column) if (row[:, None] + column == matrix).all() else None


def _usage(old: Usage, fixed: NDArray[np.bool_], position: Ints) -> Usage:
    if not old.rows:
        return old
    constant = fixed[old.node]
    amount = np.array([v[0] for v in old.vectors]) * constant
    stay = np.flatnonzero(~constant)
    return Usage(
        position[old.node[stay]],
        old.lo[stay],
        old.hi[stay],
        [old.vectors[e] for e in stay.tolist()],
        old.capacity - old.spread(amount),
        old.times,
    )


def _hinge(old: Hinge, fixed: NDArray[np.bool_], position: Ints) -> Hinge:
    new = Hinge(old.weight, old.offset)
    for node, vector in old.node_terms.items():
        if fixed[node]:
            new.offset += float(vector[0])
        else:
            new.add_node(int(position[node]), vector)
    for (u, v), matrix in old.edge_terms.items():
        if fixed[u] and fixed[v]:
            new.offset += float(matrix[0, 0])
        elif fixed[u]:
            new.add_node(int(position[v]), matrix[0])
        elif fixed[v]:
            new.add_node(int(position[u]), matrix[:, 0])
        else:
            new.add_edge(int(position[u]), int(position[v]), matrix)
    return new
