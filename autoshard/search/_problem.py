"""The labelling problem: what a caller writes down, with its invariants.

Choose one strategy per node so that node costs plus edge costs are smallest and the memory in use
never exceeds a limit. This is the problem of the ASPLOS'25 contest on intra-operator parallelism
(IOPDDL, github.com/google/iopddl), with four additions that sharding needs: tied nodes, costs that
count several times, reshards that are paid once, and communication that hides behind compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autoshard.search._model import Floats, Ints
from autoshard.search._terms import OverlapTerm, PayOnceGroup
from autoshard.search.errors import ProblemError

__all__ = ["OverlapTerm", "PayOnceGroup", "Problem"]


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Problem:
    """Nodes with strategies, edges with cost matrices, and a memory limit over time.

    Example:
        >>> problem = Problem(
        ...     node_costs=[[0.0, 5.0], [3.0, 0.0]], edges=[(0, 1)], edge_costs=[[[0, 9], [9, 0]]]
        ... )
        >>> problem.num_strategies.tolist()
        [2, 2]

    Attributes:
        node_costs: Cost per strategy, one vector for each node; infinite forbids the strategy.
        usages: Memory per strategy, >= 0, same shapes; empty means none.
        intervals: Half-open ``[lo, hi)`` in which the node's memory is held, ``[nodes, 2]``;
            ``lo == hi`` means never.
        edges: Pairs of nodes, ``[edges, 2]``; parallel edges add up, a loop costs its diagonal.
        edge_costs: Matrix ``[strategies of u, strategies of v]`` per edge (flat row-major is taken
            too); infinite forbids the pair.
        usage_limit: What every point in time can hold; None means no limit.
        ties: Groups of nodes that must take the same strategy index.
        node_multiplicity: How often each node's cost is charged (a scan body runs many times);
            default 1. Memory is not multiplied.
        edge_multiplicity: The same for edges.
        pay_once: Reshards shared between consumers.
        overlaps: Communication that is charged only where it is exposed.
        name: For messages and reports.
    """

    node_costs: tuple[Floats, ...]
    usages: tuple[Floats, ...]
    intervals: Ints
    edges: Ints
    edge_costs: tuple[Floats, ...]
    usage_limit: float | None
    ties: tuple[tuple[int, ...], ...]
    node_multiplicity: Floats
    edge_multiplicity: Floats
    pay_once: tuple[PayOnceGroup, ...]
    overlaps: tuple[OverlapTerm, ...]
    name: str

    def __init__(
        self,
        *,
        node_costs: Sequence[ArrayLike],
        usages: Sequence[ArrayLike] = (),
        intervals: ArrayLike = (),
        edges: ArrayLike = (),
        edge_costs: Sequence[ArrayLike] = (),
        usage_limit: float | None = None,
        ties: Sequence[Sequence[int]] = (),
        node_multiplicity: ArrayLike | None = None,
        edge_multiplicity: ArrayLike | None = None,
        pay_once: Sequence[PayOnceGroup] = (),
        overlaps: Sequence[OverlapTerm] = (),
        name: str = "",
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "node_costs", _vectors("node_costs", node_costs))
        if not self.node_costs:
            raise ProblemError(
                "node_costs",
                "the graph has no nodes, so there is nothing to label",
                mend="Problem(node_costs=[[0.0]])",
            )
        sizes = self.num_strategies
        if not sizes.all():
            raise ProblemError(
                "node_costs", "a node without strategies", index=int(np.argmin(sizes))
            )
        _check_costs("node_costs", self.node_costs)
        count = len(sizes)
        put(self, "usages", _checked_usages(usages, sizes))
        put(self, "intervals", _checked_intervals(np.asarray(intervals), count))
        put(self, "edges", _checked_edges(np.asarray(edges), count))
        put(self, "edge_costs", _checked_edge_costs(edge_costs, self.edges, sizes))
        put(self, "node_multiplicity", _counts("node_multiplicity", node_multiplicity, count))
        edge_counts = _counts("edge_multiplicity", edge_multiplicity, len(self.edges))
        put(self, "edge_multiplicity", edge_counts)
        limit = None if usage_limit is None else float(usage_limit)
        if limit is not None and not limit >= 0:
            raise ProblemError(
                "usage_limit", f"{limit} is negative or NaN", mend="usage_limit=None for no limit"
            )
        put(self, "usage_limit", None if limit == np.inf else limit)
        put(self, "ties", tuple(tuple(int(n) for n in t) for t in ties))
        put(self, "pay_once", tuple(pay_once))
        put(self, "overlaps", tuple(overlaps))
        _check_terms(self, sizes)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_costs)

    @property
    def num_strategies(self) -> Ints:
        """Number of strategies of every node, ``[nodes]``."""
        return np.fromiter(map(len, self.node_costs), np.int64, len(self.node_costs))

    @property
    def integral(self) -> bool:
        """Whether every finite cost is whole, so that bounds may be rounded up."""
        if self.overlaps:
            return False
        groups = [g.costs.ravel() for g in self.pay_once]
        counts = (self.node_multiplicity, self.edge_multiplicity)
        tables = (*self.node_costs, *(m.ravel() for m in self.edge_costs), *groups, *counts)
        flat = np.concatenate(tables)
        flat = flat[np.isfinite(flat)]
        whole = bool((flat == np.rint(flat)).all())
        # Beyond 2**53 sums of doubles are no longer exact, so rounding up would not be safe.
        return whole and float(np.abs(flat).sum()) < 2.0**53


def _checked_usages(given: Sequence[ArrayLike], sizes: Ints) -> tuple[Floats, ...]:
    if not len(given):
        return tuple(np.zeros(k) for k in sizes)
    usages = _vectors("usages", given)
    if len(usages) != len(sizes):
        raise ProblemError("usages", f"{len(usages)} vectors for {len(sizes)} nodes")
    for i in np.flatnonzero(np.fromiter(map(len, usages), np.int64, len(usages)) != sizes):
        raise ProblemError(
            "usages",
            f"{len(usages[i])} entries but the node has {sizes[i]} strategies",
            index=int(i),
        )
    flat = np.concatenate(usages)
    wrong = np.flatnonzero(~(np.isfinite(flat) & (flat >= 0)))
    if len(wrong):
        node = int(np.searchsorted(np.cumsum(sizes), wrong[0], side="right"))
        raise ProblemError(
            "usages",
            f"{flat[wrong[0]]} is not a finite number >= 0 (of {usages[node]})",
            index=node,
            mend="forbid a strategy by an infinite node cost, not by its memory",
        )
    return usages


def _checked_intervals(intervals: NDArray[Any], count: int) -> Ints:
    if not intervals.size:
        return np.tile(np.array([[0, 1]], np.int64), (count, 1))
    if intervals.shape != (count, 2) or not np.issubdtype(intervals.dtype, np.integer):
        raise ProblemError(
            "intervals",
            f"shape {intervals.shape} of {intervals.dtype} for {count} nodes",
            mend="one pair of integers (lo, hi) per node; (0, 0) for a node that holds nothing",
        )
    backwards = np.flatnonzero(intervals[:, 0] > intervals[:, 1])
    if len(backwards):
        raise ProblemError(
            "intervals",
            f"lo > hi: {intervals[backwards[0]].tolist()}",
            index=int(backwards[0]),
            mend="give half-open [lo, hi) with lo <= hi",
        )
    return intervals.astype(np.int64)


def _checked_edges(edges: NDArray[Any], count: int) -> Ints:
    if not edges.size:
        return np.zeros((0, 2), np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise ProblemError(
            "edges", f"shape {edges.shape} of {edges.dtype} is not integer [edges, 2]"
        )
    outside = np.flatnonzero(((edges < 0) | (edges >= count)).any(1))
    if len(outside):
        raise ProblemError(
            "edges",
            f"{edges[outside[0]].tolist()} names a node outside 0..{count - 1}",
            index=int(outside[0]),
        )
    return edges.astype(np.int64)


def _checked_edge_costs(given: Sequence[ArrayLike], edges: Ints, sizes: Ints) -> tuple[Floats, ...]:
    if len(given) != len(edges):
        raise ProblemError("edge_costs", f"{len(given)} matrices for {len(edges)} edges")
    shapes = sizes[edges].tolist()
    matrices: list[Floats] = []
    for e, (matrix, (rows, columns)) in enumerate(zip(given, shapes, strict=True)):
        try:
            array = np.asarray(matrix, np.float64)
        except ValueError as ragged:
            raise ProblemError("edge_costs", f"ragged matrix ({ragged})", index=e) from None
        if array.shape != (rows, columns):
            if array.ndim != 1 or array.size != rows * columns:
                raise ProblemError(
                    "edge_costs",
                    f"shape {array.shape} but its nodes {edges[e].tolist()} have "
                    f"{rows} and {columns} strategies",
                    index=e,
                )
            array = array.reshape(rows, columns)
        matrices.append(array)
    _check_costs("edge_costs", matrices)
    return tuple(matrices)


def _check_terms(problem: Problem, sizes: Ints) -> None:
    for t, tie in enumerate(problem.ties):
        if any(not 0 <= n < len(sizes) for n in tie) or len({sizes[n] for n in tie}) > 1:
            raise ProblemError(
                "ties",
                f"nodes {tie} must exist and have the same number of strategies",
                index=t,
            )
    for g, group in enumerate(problem.pay_once):
        ends = (group.source, *group.consumers)
        widths = (group.costs.shape[0], *map(len, group.wants))
        for node, width in zip(ends, widths, strict=True):
            if not 0 <= node < len(sizes) or sizes[node] != width:
                raise ProblemError(
                    "pay_once", f"node {node} does not have {width} strategies", index=g
                )
    for o, term in enumerate(problem.overlaps):
        for node, vector in term.node_terms.items():
            if not 0 <= node < len(sizes) or vector.shape != (sizes[node],):
                raise ProblemError(
                    "overlaps", f"node {node} does not fit shape {vector.shape}", index=o
                )
        for edge, matrix in term.edge_terms.items():
            if not 0 <= edge < len(problem.edges) or matrix.shape != problem.edge_costs[edge].shape:
                raise ProblemError(
                    "overlaps", f"edge {edge} does not fit shape {matrix.shape}", index=o
                )


def _vectors(field: str, rows: Sequence[ArrayLike]) -> tuple[Floats, ...]:
    vectors: list[Floats] = []
    for i, row in enumerate(rows):
        try:
            vector = np.asarray(row, np.float64)
        except (TypeError, ValueError) as wrong:
            raise ProblemError(field, f"not a vector of numbers ({wrong})", index=i) from None
        if vector.ndim != 1:
            raise ProblemError(
                field, f"shape {vector.shape} is not one number per strategy", index=i
            )
        vectors.append(vector)
    return tuple(vectors)


def _check_costs(field: str, arrays: Sequence[Floats]) -> None:
    if not len(arrays):
        return
    flat = np.concatenate([a.ravel() for a in arrays])
    wrong = np.flatnonzero(np.isnan(flat) | (flat == -np.inf))
    if len(wrong):
        ends = np.cumsum([a.size for a in arrays])
        raise ProblemError(
            field,
            f"holds {flat[wrong[0]]}, which no sum can be compared with",
            index=int(np.searchsorted(ends, wrong[0], side="right")),
            mend="use float('inf') to forbid, any finite number otherwise",
        )


def _counts(field: str, counts: ArrayLike | None, length: int) -> Floats:
    array = np.ones(length) if counts is None else np.asarray(counts, np.float64)
    if array.shape != (length,) or not (np.isfinite(array) & (array > 0)).all():
        raise ProblemError(field, f"needs {length} finite numbers > 0, got shape {array.shape}")
    return array
