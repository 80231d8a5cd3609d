"""From a problem to the working model: ties, multiplicities and pay-once groups disappear here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoshard.search._evaluate import usage_tolerance
from autoshard.search._model import Floats, Hinge, Ints, Lift, Model, Usage, combine_parallel
from autoshard.search._problem import Problem
from autoshard.search._terms import PayOnceGroup

__all__ = ["compile_problem"]


def compile_problem(problem: Problem) -> tuple[Model, Lift]:
    """Builds the pairwise model of a problem.

    A pay-once group becomes one two-state helper node per layout class that several consumers can
    want: *absent* or *present*. A consumer that wants the class forbids *absent*, and *present*
    costs what the source's strategy pays for it. The minimum over the helpers is the group's cost,
    because payments are not negative, so nothing beyond pairs is needed anywhere in the solver.

    Args:
        problem: The problem.

    Returns:
        The model, and the map between its labels and the problem's.
    """
    variable = _tied(problem)
    _, leaders = np.unique(variable, return_index=True)
    count = len(leaders)
    costs = [np.zeros(len(problem.node_costs[n])) for n in leaders.tolist()]
    for node, var, times in zip(
        problem.node_costs, variable.tolist(), problem.node_multiplicity, strict=True
    ):
        costs[var] += node * times
    helpers: list[tuple[PayOnceGroup, int]] = []
    pairs = list(_edges(problem, variable))
    for group in problem.pay_once:
        pairs += _pay_once(group, variable, count + len(helpers), helpers)
    costs += [np.zeros(2)] * len(helpers)
    sizes = np.fromiter(map(len, costs), np.int64, len(costs))
    edge_nodes, edge_costs, loops = combine_parallel(sizes, pairs)
    for node, extra in loops.items():
        costs[node] = costs[node] + extra
    model = Model(
        costs, edge_nodes, edge_costs, _usage(problem, variable), _hinges(problem, variable)
    )

    def up(labels: Ints) -> Ints:
        return labels[variable]

    def down(labels: Ints) -> Ints:
        present = [
            any(w[labels[j]] == c for w, j in zip(g.wants, g.consumers, strict=True))
            for g, c in helpers
        ]
        return np.concatenate([labels[leaders], np.array(present, np.int64)])

    return model, Lift("compile", up, down)


def _tied(problem: Problem) -> Ints:
    """Variable of every node: tied nodes share one; variables are numbered as first met."""
    leader = np.arange(problem.num_nodes)

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = int(leader[node])
        return node

    for tie in problem.ties:
        for node in tie[1:]:
            a, b = sorted((find(tie[0]), find(node)))
            leader[b] = a
    heads = np.array([find(n) for n in range(problem.num_nodes)]) if problem.ties else leader
    return np.unique(heads, return_inverse=True)[1].astype(np.int64)


def _edges(problem: Problem, variable: Ints) -> Iterator[tuple[int, int, Floats]]:
    ends = variable[problem.edges].tolist()
    counts = problem.edge_multiplicity.tolist()
    for (u, v), matrix, times in zip(ends, problem.edge_costs, counts, strict=True):
        yield u, v, matrix if times == 1 else matrix * times


def _pay_once(
    group: PayOnceGroup, variable: Ints, first: int, helpers: list[tuple[PayOnceGroup, int]]
) -> Iterator[tuple[int, int, Floats]]:
    source = int(variable[group.source])
    by_class: dict[int, list[int]] = {}
    for j, wanted in enumerate(group.wants):
        for c in sorted(set(wanted.tolist()) - {-1}):
            by_class.setdefault(c, []).append(j)
    strategies = len(group.costs)
    for c, wanting in sorted(by_class.items()):
        price = group.costs[:, c]
        if len(wanting) == 1:
            # Nobody to share with: an ordinary edge, which relaxes more tightly than a helper.
            wants = group.wants[wanting[0]] == c
            matrix = np.where(wants[None, :], price[:, None], 0.0)
            yield source, int(variable[group.consumers[wanting[0]]]), matrix
            continue
        helper = first
        first += 1
        helpers.append((group, c))
        yield source, helper, np.stack([np.zeros(strategies), price], axis=1)
        for j in wanting:
            wants = group.wants[j] == c
            matrix = np.zeros((len(wants), 2))
            matrix[wants, 0] = np.inf
            yield int(variable[group.consumers[j]]), helper, matrix


def _usage(problem: Problem, variable: Ints) -> Usage:
    if problem.usage_limit is None:
        return Usage.none()
    intervals = problem.intervals
    peak = np.fromiter((u.max() for u in problem.usages), np.float64, problem.num_nodes)
    live = np.flatnonzero((intervals[:, 0] < intervals[:, 1]) & (peak > 0))
    if not len(live):
        return Usage.none()
    times = np.unique(intervals[live])
    # Half the tolerance here leaves the other half to the referee, who sums in another order.
    capacity = np.full(len(times) - 1, problem.usage_limit + usage_tolerance(problem) / 2)
    return Usage(
        node=variable[live],
        lo=np.searchsorted(times, intervals[live, 0]),
        hi=np.searchsorted(times, intervals[live, 1]),
        vectors=[problem.usages[i] for i in live.tolist()],
        capacity=capacity,
        times=times[:-1],
    )


def _hinges(problem: Problem, variable: Ints) -> list[Hinge]:
    hinges = []
    for term in problem.overlaps:
        hinge = Hinge(term.weight, term.offset)
        for node, vector in term.node_terms.items():
            hinge.add_node(int(variable[node]), vector)
        for edge, matrix in term.edge_terms.items():
            u, v = variable[problem.edges[edge]].tolist()
            hinge.add_edge(u, v, matrix)
        hinges.append(hinge)
    return hinges
