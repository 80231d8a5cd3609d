"""Block moves: re-label a whole induced forest at once, exactly, while the rest stands still.

A random set of nodes that induces no cycle is chosen greedily; on sharding graphs it holds most of
the nodes. Given the labels of the others, dynamic programming over its trees finds the best labels
of all of them together, so paths and whole components move in one step where single changes would
have to climb. Nodes of equal depth are one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from autoshard.search._model import Floats, Ints
from autoshard.search.large._table import EdgeTable

__all__ = ["ForestMoves"]


class ForestMoves:
    """Draws random forests of a graph and optimises over them."""

    def __init__(self, table: EdgeTable, seed: int) -> None:
        """Lists the neighbours of every node."""
        self._table = table
        self._count = len(table.offsets) - 1
        self._sizes: Ints = np.diff(table.offsets)
        self._random = np.random.default_rng(seed)
        ends = [np.zeros((0, 4), np.int64)]
        for k, b in enumerate(table.buckets):
            at = np.arange(len(b.u))
            where = np.full(len(b.u), k)
            ends.append(np.stack([b.u, b.v, where, at], axis=1))
            ends.append(np.stack([b.v, b.u, where, at], axis=1))
        links = np.concatenate(ends)
        links = links[np.lexsort((links[:, 1], links[:, 0]))]
        starts = np.searchsorted(links[:, 0], np.arange(self._count + 1)).tolist()
        rows = [tuple(r) for r in links[:, 1:].tolist()]
        self._around = [rows[a:b] for a, b in pairwise(starts)]

    def move(self, node_costs: Floats, labels: Ints) -> Ints:
        """One block move.

        Args:
            node_costs: Flat node costs, with whatever prices are to be minded.
            labels: The labelling to start from.

        Returns:
            A labelling that costs no more.
        """
        order, links = self._draw()
        free = np.zeros(self._count, np.bool_)
        free[order] = True
        value = self._table.conditional(node_costs, labels, free)
        batches = self._batches(order, links)
        offsets = self._table.offsets
        for costs, child, parent in reversed(batches):
            rows = offsets[child, None] + np.arange(costs.shape[1])
            best = (costs + value[rows][:, :, None]).min(1)
            columns = offsets[parent, None] + np.arange(costs.shape[2])
            np.add.at(value, columns.ravel(), best.ravel())
        moved = labels.copy()
        roots = np.array([n for n, link in zip(order, links, strict=True) if link is None])
        for size in np.unique(self._sizes[roots]).tolist():
            group = roots[self._sizes[roots] == size]
            moved[group] = value[offsets[group, None] + np.arange(size)].argmin(1)
        for costs, child, parent in batches:
            rows = offsets[child, None] + np.arange(costs.shape[1])
            given = costs[np.arange(len(child)), :, moved[parent]]
            moved[child] = (value[rows] + given).argmin(1)
        return moved

    def _draw(self) -> tuple[list[int], list[tuple[int, int, int, int] | None]]:
        """A random induced forest: its nodes parents first, each with the link to its parent.

        A link is ``(parent, depth, bucket, position in bucket)``.
        """
        group = list(range(self._count))
        chosen = [False] * self._count

        def find(node: int) -> int:
            while group[node] != node:
                group[node] = group[group[node]]
                node = group[node]
            return node

        for node in self._random.permutation(self._count).tolist():
            heads = [find(other) for other, _, _ in self._around[node] if chosen[other]]
            if len(set(heads)) == len(heads):
                chosen[node] = True
                for head in heads:
                    group[head] = node
        order: list[int] = []
        links: list[tuple[int, int, int, int] | None] = []
        depth = [-1] * self._count
        for start in self._random.permutation(self._count).tolist():
            if not chosen[start] or depth[start] >= 0:
                continue
            depth[start] = 0
            first = len(order)
            order.append(start)
            links.append(None)
            # The list grows while it is walked: breadth first.
            for node in _growing(order, first):
                for other, bucket, at in self._around[node]:
                    if chosen[other] and depth[other] < 0:
                        depth[other] = depth[node] + 1
                        order.append(other)
                        links.append((node, depth[other], bucket, at))
        return order, links

    def _batches(
        self, order: list[int], links: list[tuple[int, int, int, int] | None]
    ) -> list[tuple[Floats, Ints, Ints]]:
        """Tree edges by depth and shape: matrices child first, children, parents."""
        groups: dict[tuple[int, int, bool], tuple[list[int], list[int], list[int]]] = {}
        buckets = self._table.buckets
        for node, link in zip(order, links, strict=True):
            if link is None:
                continue
            parent, depth, bucket, at = link
            key = (depth, bucket, node < parent)
            children, parents, places = groups.setdefault(key, ([], [], []))
            children.append(node)
            parents.append(parent)
            places.append(at)
        batches = []
        for (_, bucket, child_is_lower), (children, parents, places) in sorted(groups.items()):
            costs = buckets[bucket].costs[places]
            if not child_is_lower:
                costs = costs.transpose(0, 2, 1)
            batches.append((costs, np.array(children), np.array(parents)))
        return batches


def _growing(items: list[int], start: int) -> Iterator[int]:
    while start < len(items):
        yield items[start]
        start += 1
