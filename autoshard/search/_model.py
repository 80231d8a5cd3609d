"""The solver's working form of a problem: a pairwise graph, memory rows and hinge terms.

A `Problem` is what a caller writes down; a `Model` is what the reductions and the solvers work on:

    minimise    constant + sum_i costs[i][x_i] + sum_e edge_costs[e][x_u, x_v]
                + sum_h weight_h * max(0, offset_h + terms_h(x))
    subject to  sum_{entries live in row r} vector[x_node] <= capacity[r]   for every row r

Rows are points in time, kept in order, so an entry is live in a contiguous range of rows and every
sum over rows is a prefix sum: O(entries + rows), never O(entries * rows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Hinge", "Ints", "Lift", "Model", "Usage", "combine_parallel"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(slots=True)
class Usage:
    """Memory: entries that are live in ranges of rows, and what each row can hold.

    Attributes:
        node: Node of each entry, ``[entries]``.
        lo: First row in which the entry is live.
        hi: One past the last row.
        vectors: Usage of each entry per strategy of its node.
        capacity: What each row can hold, ``[rows]``.
        times: The point in time that each row stands for, ``[rows]``.
    """

    node: Ints
    lo: Ints
    hi: Ints
    vectors: list[Floats]
    capacity: Floats
    times: Ints

    @staticmethod
    def none() -> Usage:
        """No memory constraint at all."""
        empty = np.zeros(0, np.int64)
        return Usage(empty, empty, empty, [], np.zeros(0), empty)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.capacity)

    def load(self, labels: Ints) -> Floats:
        """Memory in use in every row under `labels`, ``[rows]``."""
        picked = np.fromiter(
            (v[labels[n]] for v, n in zip(self.vectors, self.node, strict=True)),
            np.float64,
            len(self.vectors),
        )
        return self.spread(picked)

    def spread(self, amount: Floats) -> Floats:
        """Adds each entry's `amount` to the rows in which the entry is live."""
        steps = np.bincount(self.lo, amount, self.rows + 1)
        steps -= np.bincount(self.hi, amount, self.rows + 1)
        return np.cumsum(steps[:-1], dtype=np.float64)


@dataclass(slots=True)
class Hinge:
    """``weight * max(0, offset + sum of node terms + sum of edge terms)``.

    Attributes:
        weight: Cost per unit above zero, positive.
        offset: Constant part.
        node_terms: Node to a vector over its strategies.
        edge_terms: ``(u, v)`` with ``u < v`` to a matrix over their strategies.
    """

    weight: float
    offset: float
    node_terms: dict[int, Floats] = field(default_factory=dict)
    edge_terms: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def inside(self, labels: Ints) -> float:
        """What stands inside the maximum under `labels`."""
        total = self.offset
        total += sum(float(v[labels[n]]) for n, v in self.node_terms.items())
        total += sum(float(m[labels[a], labels[b]]) for (a, b), m in self.edge_terms.items())
        return total

    def value(self, labels: Ints) -> float:
        """The cost of this term under `labels`."""
        return self.weight * max(0.0, self.inside(labels))

    def add_node(self, node: int, vector: Floats) -> None:
        """Adds `vector` to the node's term."""
        known = self.node_terms.get(node)
        self.node_terms[node] = vector.copy() if known is None else known + vector

    def add_edge(self, u: int, v: int, matrix: Floats) -> None:
        """Adds `matrix` to the edge's term; a loop adds its diagonal to the node."""
        if u == v:
            self.add_node(u, np.diagonal(matrix).copy())
            return
        key, oriented = ((u, v), matrix) if u < v else ((v, u), matrix.T)
        known = self.edge_terms.get(key)
        self.edge_terms[key] = oriented.copy() if known is None else known + oriented


@dataclass(slots=True)
class Model:
    """A pairwise graph with memory rows and hinge terms; see the module's docstring.

    Invariants: ``edge_nodes[:, 0] < edge_nodes[:, 1]``, no pair occurs twice.
    """

    costs: list[Floats]
    edge_nodes: Ints
    edge_costs: list[Floats]
    usage: Usage
    hinges: list[Hinge] = field(default_factory=list)
    constant: float = 0.0

    @property
    def sizes(self) -> Ints:
        """Number of strategies of every node, ``[nodes]``."""
        return np.fromiter(map(len, self.costs), np.int64, len(self.costs))

    @property
    def entries(self) -> int:
        """Number of entries of all edge matrices together."""
        return sum(m.size for m in self.edge_costs)

    def evaluate(self, labels: Ints) -> float:
        """Cost of `labels`, infinite if they pick a forbidden entry; memory is not looked at."""
        total = self.constant + float(
            sum(c[s] for c, s in zip(self.costs, labels.tolist(), strict=True))
        )
        if len(self.edge_nodes):
            ends = labels[self.edge_nodes].tolist()
            total += float(sum(m[a, b] for m, (a, b) in zip(self.edge_costs, ends, strict=True)))
        return total + sum(h.value(labels) for h in self.hinges)

    def excess(self, labels: Ints) -> float:
        """How far the worst row is above its capacity; not positive where `labels` fit."""
        if not self.usage.rows:
            return 0.0
        return float(np.max(self.usage.load(labels) - self.usage.capacity))

    def fits(self, labels: Ints) -> bool:
        """Whether `labels` keep every row within its capacity."""
        return self.excess(labels) <= 0.0


@dataclass(slots=True, frozen=True)
class Lift:
    """How one reduction maps labels down to the smaller model and back up.

    Attributes:
        name: The reduction.
        up: Labels of the smaller model to labels of the larger one.
        down: The other way, best effort: used for warm starts only.
    """

    name: str
    up: Callable[[Ints], Ints]
    down: Callable[[Ints], Ints]


def combine_parallel(
    sizes: Ints, pairs: Iterable[tuple[int, int, Floats]]
) -> tuple[Ints, list[Floats], dict[int, Floats]]:
    """Orients edges upwards, adds parallel ones, and turns loops into node costs.

    Args:
        sizes: Number of strategies of every node.
        pairs: ``(u, v, matrix)`` in any orientation.

    Returns:
        Edge ends ``[edges, 2]``, the matrices, and what loops add to nodes.
    """
    merged: dict[tuple[int, int], Floats] = {}
    shared: set[tuple[int, int]] = set()
    loops: dict[int, Floats] = {}
    for u, v, matrix in pairs:
        if u == v:
            loops[u] = loops.get(u, np.zeros(sizes[u])) + np.diagonal(matrix)
            continue
        if u > v:
            u, v, matrix = v, u, matrix.T
        key = (u, v)
        known = merged.get(key)
        if known is None:
            merged[key] = matrix
        elif key in shared:
            known += matrix
        else:
            # The first matrix may be a view of the caller's data: copy once, then add in place.
            merged[key] = known + matrix
            shared.add(key)
    ends = np.array(list(merged), np.int64).reshape(-1, 2)
    return ends, list(merged.values()), loops
