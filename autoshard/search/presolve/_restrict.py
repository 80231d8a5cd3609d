"""Two rewrites that the reductions share: dropping strategies, and letting nodes follow others."""

from __future__ import annotations

import numpy as np

from autoshard.search._model import Floats, Hinge, Ints, Lift, Model, Usage, combine_parallel

__all__ = ["contract", "restrict"]


def restrict(model: Model, keep: dict[int, Ints], name: str) -> tuple[Model, Lift]:
    """Keeps only some strategies of some nodes.

    Args:
        model: The model.
        keep: Node to the indices of the strategies that stay, ascending and not empty.
        name: The reduction that asks for it.

    Returns:
        The smaller model and its lift.
    """
    costs = [c[keep[i]] if i in keep else c for i, c in enumerate(model.costs)]
    edge_costs = [
        _submatrix(m, keep.get(u), keep.get(v))
        for m, (u, v) in zip(model.edge_costs, model.edge_nodes.tolist(), strict=True)
    ]
    old = model.usage
    vectors = [
        v[keep[n]] if n in keep else v for v, n in zip(old.vectors, old.node.tolist(), strict=True)
    ]
    usage = Usage(old.node, old.lo, old.hi, vectors, old.capacity, old.times)
    hinges = [
        Hinge(
            h.weight,
            h.offset,
            {n: v[keep[n]] if n in keep else v for n, v in h.node_terms.items()},
            {(u, v): _submatrix(m, keep.get(u), keep.get(v)) for (u, v), m in h.edge_terms.items()},
        )
        for h in model.hinges
    ]

    def up(labels: Ints) -> Ints:
        lifted = labels.copy()
        for node, kept in keep.items():
            lifted[node] = kept[labels[node]]
        return lifted

    def down(labels: Ints) -> Ints:
        lowered = labels.copy()
        for node, kept in keep.items():
            at = int(np.searchsorted(kept, labels[node]))
            lowered[node] = at if at < len(kept) and kept[at] == labels[node] else 0
        return lowered

    smaller = Model(costs, model.edge_nodes, edge_costs, usage, hinges, model.constant)
    return smaller, Lift(name, up, down)


def contract(model: Model, root: Ints, maps: dict[int, Ints], name: str) -> tuple[Model, Lift]:
    """Lets nodes follow others: ``x[i] = maps[i][x[root[i]]]``.

    Args:
        model: The model.
        root: The node that each node follows, itself if none; ``root[root[i]] == root[i]``.
        maps: For each follower, its strategy per strategy of its root.
        name: The reduction that asks for it.

    Returns:
        The model on the roots alone, and its lift. Edges inside one component become node costs,
        infinite where the followers contradict each other.
    """
    roots = np.flatnonzero(root == np.arange(len(root)))
    position = np.full(len(root), -1, np.int64)
    position[roots] = np.arange(len(roots))
    new = position[root]
    targets = new.tolist()
    costs = [model.costs[r].copy() for r in roots.tolist()]
    for node, mapping in maps.items():
        costs[targets[node]] += model.costs[node][mapping]

    def mapped(u: int, v: int, matrix: Floats) -> tuple[int, int, Floats]:
        return targets[u], targets[v], _submatrix(matrix, maps.get(u), maps.get(v))

    sizes = np.fromiter(map(len, costs), np.int64, len(costs))
    edge_nodes, edge_costs, loops = combine_parallel(
        sizes,
        (
            mapped(u, v, m)
            for m, (u, v) in zip(model.edge_costs, model.edge_nodes.tolist(), strict=True)
        ),
    )
    for node, extra in loops.items():
        costs[node] = costs[node] + extra
    old = model.usage
    vectors = [
        v[maps[n]] if n in maps else v for v, n in zip(old.vectors, old.node.tolist(), strict=True)
    ]
    usage = Usage(new[old.node], old.lo, old.hi, vectors, old.capacity, old.times)
    hinges = []
    for h in model.hinges:
        hinge = Hinge(h.weight, h.offset)
        for node, vector in h.node_terms.items():
            hinge.add_node(targets[node], vector[maps[node]] if node in maps else vector)
        for (u, v), matrix in h.edge_terms.items():
            hinge.add_edge(*mapped(u, v, matrix))
        hinges.append(hinge)
    followers = np.array(list(maps), np.int64)

    def up(labels: Ints) -> Ints:
        lifted = labels[new]
        for node in followers.tolist():
            lifted[node] = maps[node][lifted[node]]
        return lifted

    def down(labels: Ints) -> Ints:
        return labels[roots]

    smaller = Model(costs, edge_nodes, edge_costs, usage, hinges, model.constant)
    return smaller, Lift(name, up, down)


def _submatrix(matrix: Floats, rows: Ints | None, columns: Ints | None) -> Floats:
    if rows is not None:
        matrix = matrix[rows]
    return matrix if columns is None else matrix[:, columns]
