"""Connected components: parts that share no edge, memory row or hinge are solved apart."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoshard.search._model import Hinge, Ints, Model, Usage

__all__ = ["components"]


def components(model: Model) -> list[tuple[Ints, Model]]:
    """Splits a model into independent parts.

    Returns:
        For each part its nodes in `model`'s numbering, ascending, and the part as a model of its
        own. Constants stay with `model`, except where it is the only part itself.
    """
    nodes, usage = len(model.costs), model.usage
    links = [model.edge_nodes.reshape(-1, 2)]
    # An entry ties its node to the first of its rows, and consecutive rows that it spans together.
    if usage.rows:
        links.append(np.stack([usage.node, nodes + usage.lo], axis=1))
        spans = np.bincount(usage.lo, minlength=usage.rows + 1)
        spans = np.cumsum(spans - np.bincount(usage.hi, minlength=usage.rows + 1))
        ending = np.bincount(usage.hi, minlength=usage.rows + 1)
        # Live in both row r and r + 1: live in r, less those that end at r + 1.
        across = spans[:-1] - ending[1:]
        bridged = np.flatnonzero(across[: usage.rows - 1] > 0)
        links.append(np.stack([nodes + bridged, nodes + bridged + 1], axis=1))
    for h, hinge in enumerate(model.hinges):
        hub = nodes + usage.rows + h
        inside = sorted({*hinge.node_terms, *(n for pair in hinge.edge_terms for n in pair)})
        # A term that nothing is left of is a constant: any part may carry it.
        links.append(np.array([(hub, n) for n in inside or [0]], np.int64).reshape(-1, 2))
    pairs = np.concatenate(links)
    total = nodes + usage.rows + len(model.hinges)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    _, where = connected_components(graph, directed=False)
    # Rows that nobody is live in are components too, so it is the nodes' that count.
    if len(np.unique(where[:nodes])) == 1:
        return [(np.arange(nodes), model)]
    return _split(model, where, nodes)


def _split(model: Model, where: Ints, nodes: int) -> list[tuple[Ints, Model]]:
    usage = model.usage
    order = np.argsort(where[:nodes], kind="stable")
    bounds = np.flatnonzero(np.diff(where[:nodes][order])) + 1
    members = np.split(order, bounds)
    position = np.empty(nodes, np.int64)
    for group in members:
        position[group] = np.arange(len(group))
    edge_groups = _by_part(where[model.edge_nodes[:, 0]])
    entry_groups = _by_part(where[usage.node])
    row_part = where[nodes : nodes + usage.rows]
    parts = []
    for group in sorted(members, key=lambda g: int(g[0])):
        part = int(where[group[0]])
        edges = edge_groups.get(part, np.zeros(0, np.int64))
        rows = np.flatnonzero(row_part == part) if usage.rows else np.zeros(0, np.int64)
        before = np.searchsorted(rows, np.arange(usage.rows + 1))
        entries = entry_groups.get(part, np.zeros(0, np.int64))
        sub_usage = Usage(
            position[usage.node[entries]],
            before[usage.lo[entries]],
            before[usage.hi[entries]],
            [usage.vectors[e] for e in entries.tolist()],
            usage.capacity[rows],
            usage.times[rows],
        )
        hinges = [
            Hinge(
                h.weight,
                h.offset,
                {int(position[n]): v for n, v in h.node_terms.items()},
                {(int(position[u]), int(position[v])): m for (u, v), m in h.edge_terms.items()},
            )
            for k, h in enumerate(model.hinges)
            if where[nodes + usage.rows + k] == part
        ]
        sub = Model(
            [model.costs[i] for i in group.tolist()],
            position[model.edge_nodes[edges]],
            [model.edge_costs[e] for e in edges.tolist()],
            sub_usage,
            hinges,
        )
        parts.append((group, sub))
    return parts


def _by_part(labels: Ints) -> dict[int, Ints]:
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    return {int(labels[g[0]]): g for g in np.split(order, bounds) if len(g)}
