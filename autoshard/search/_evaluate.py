"""What a labelling costs and needs, straight from the problem's definition.

Nothing here knows of models, reductions or solvers: this is the referee that every solver's answer,
also one from outside, is put before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search._model import Floats, Ints
from autoshard.search._problem import Problem
from autoshard.search.errors import ProblemError

__all__ = ["Evaluation", "evaluate", "usage_over_time", "usage_tolerance", "validate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A labelling's cost by kind, its memory, and every way in which it is not feasible.

    Attributes:
        node_cost: Sum of node costs.
        edge_cost: Sum of edge costs.
        pay_once_cost: Sum over pay-once groups.
        overlap_cost: Sum over overlap terms.
        peak_usage: Largest memory in use at any time.
        peak_time: The first time at which it is reached.
        violations: One sentence per violation; empty where the labelling is feasible.
    """

    node_cost: float
    edge_cost: float
    pay_once_cost: float
    overlap_cost: float
    peak_usage: float
    peak_time: int
    violations: tuple[str, ...]

    @property
    def cost(self) -> float:
        """The objective; infinite where a forbidden strategy or pair was picked."""
        return self.node_cost + self.edge_cost + self.pay_once_cost + self.overlap_cost

    @property
    def feasible(self) -> bool:
        """Whether nothing is violated."""
        return not self.violations


def usage_tolerance(problem: Problem) -> float:
    """How far above the limit still counts as within it.

    Zero where every usage is a whole number (sums are then exact); otherwise what rounding in a
    different order of summation can amount to.
    """
    limit = problem.usage_limit
    if limit is None:
        return 0.0
    flat = np.concatenate(problem.usages)
    if (flat == np.rint(flat)).all() and float(flat.sum()) < 2.0**53:
        return 0.0
    return 1e-9 * max(1.0, limit)


def usage_over_time(problem: Problem, amounts: ArrayLike) -> tuple[Ints, Floats]:
    """Memory in use over time when node ``i`` holds ``amounts[i]``.

    Args:
        problem: The problem, for its intervals.
        amounts: One amount per node, ``[nodes]``.

    Returns:
        Times at which the memory changes ``[events]``, and what is in use from each on.
    """
    held = np.asarray(amounts, np.float64)
    intervals = problem.intervals
    live = intervals[:, 0] < intervals[:, 1]
    times, where = np.unique(intervals[live], return_inverse=True)
    where = where.reshape(-1, 2)
    if not len(times):
        return times, np.zeros(0)
    steps = np.bincount(where[:, 0], held[live], len(times))
    steps -= np.bincount(where[:, 1], held[live], len(times))
    return times, np.cumsum(steps, dtype=np.float64)


def evaluate(problem: Problem, labels: ArrayLike) -> Evaluation:
    """Costs and checks a labelling.

    Args:
        problem: The problem.
        labels: Strategy index of every node, ``[nodes]``.

    Returns:
        The costs, the peak memory, and the violations.

    Raises:
        ProblemError: If `labels` are not one valid strategy index per node.
    """
    chosen = checked_labels(problem, labels)
    multiplicity = problem.node_multiplicity
    unary = np.array([c[s] for c, s in zip(problem.node_costs, chosen.tolist(), strict=True)])
    ends = chosen[problem.edges].tolist()
    pairs = np.array([m[a, b] for m, (a, b) in zip(problem.edge_costs, ends, strict=True)])
    violations = [
        f"node {i} takes strategy {chosen[i]}, which is forbidden"
        for i in np.flatnonzero(np.isinf(unary))
    ]
    violations += [
        f"edge {e} between nodes {problem.edges[e].tolist()} takes the forbidden pair {ends[e]}"
        for e in np.flatnonzero(np.isinf(pairs))
    ]
    violations += [
        f"tied nodes {tie} take different strategies {sorted(set(chosen[list(tie)].tolist()))}"
        for tie in problem.ties
        if len(set(chosen[list(tie)].tolist())) > 1
    ]
    held = np.array([u[s] for u, s in zip(problem.usages, chosen.tolist(), strict=True)])
    times, in_use = usage_over_time(problem, held)
    peak = int(np.argmax(in_use)) if len(in_use) else -1
    peak_usage = float(in_use[peak]) if len(in_use) else 0.0
    limit = problem.usage_limit
    if limit is not None and peak_usage > limit + usage_tolerance(problem):
        violations.append(
            f"memory {peak_usage:,.0f} at time {times[peak]} is above the limit {limit:,.0f}"
        )
    shared = [group.cost(chosen) for group in problem.pay_once]
    violations += [
        f"pay-once group {g} needs a forbidden reshard" for g, c in enumerate(shared) if np.isinf(c)
    ]
    return Evaluation(
        node_cost=float(unary @ multiplicity),
        edge_cost=float(pairs @ problem.edge_multiplicity) if len(pairs) else 0.0,
        pay_once_cost=float(sum(shared)),
        overlap_cost=_overlap_cost(problem, chosen),
        peak_usage=peak_usage,
        peak_time=int(times[peak]) if len(in_use) else 0,
        violations=tuple(violations),
    )


def validate(problem: Problem, labels: ArrayLike) -> None:
    """Raises unless `labels` are a feasible labelling of `problem`.

    Raises:
        ProblemError: With every violation, if there is one.
    """
    found = evaluate(problem, labels).violations
    if found:
        shown = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise ProblemError("labels", f"not feasible: {shown}")


def checked_labels(problem: Problem, labels: ArrayLike) -> Ints:
    """`labels` as an integer array, if they are one valid strategy index per node."""
    array = np.asarray(labels)
    if array.shape != (problem.num_nodes,) or not np.issubdtype(array.dtype, np.integer):
        raise ProblemError(
            "labels",
            f"shape {array.shape} of {array.dtype} for {problem.num_nodes} nodes",
            mend="give one integer strategy index per node",
        )
    outside = np.flatnonzero((array < 0) | (array >= problem.num_strategies))
    if len(outside):
        node = int(outside[0])
        raise ProblemError(
            "labels",
            f"strategy {array[node]} of a node with {problem.num_strategies[node]} strategies",
            index=node,
        )
    return array.astype(np.int64)


def _overlap_cost(problem: Problem, labels: Ints) -> float:
    total = 0.0
    for term in problem.overlaps:
        inside = term.offset
        inside += sum(float(v[labels[n]]) for n, v in term.node_terms.items())
        for e, matrix in term.edge_terms.items():
            u, v = problem.edges[e]
            inside += float(matrix[labels[u], labels[v]])
        total += term.weight * max(0.0, inside)
    return total
