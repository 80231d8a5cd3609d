"""Large neighbourhood search: free a region, solve it to optimality, keep what is better.

The nodes of a region are free, all others stand still: their edges become node costs of the region,
their memory is taken off the capacities. What remains is a small problem of the same kind, which
the reductions and the exact method solve with memory minded exactly. This is what prices cannot do:
fill the last byte of a memory row (Shaw, CP 1998; Danna, Rothberg and Le Pape, Math. Program. 102,
2005).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from autoshard.search._clock import Deadline
from autoshard.search._model import Floats, Hinge, Ints, Model, Usage
from autoshard.search.exact import peaks, solve_exact
from autoshard.search.presolve import NoLabellingError, presolve, restrict

__all__ = ["Neighbourhoods"]

_BRANCH_LIMIT = 500
_ENTRIES_AT_FIRST = 12_000.0
_ENTRIES_AT_LEAST = 1_000.0
_ENTRIES_AT_MOST = 1_000_000.0
# Edge entries that may be left of a region after the reductions: what makes it hard to solve.
_REDUCED_AT_MOST = 60_000
_EASY = 15_000
# Longest single region, as a part of the time that is left; without a limit nothing is cut short.
_LONGEST = 0.1
# Strategies that a free node may choose from: all, or the most promising ones in a wider region.
_WIDTHS = (10**9, 12, 6, 3)


@dataclass(slots=True)
class _Arm:
    """One choice of width, and how it has done.

    Attributes:
        width: Strategies per free node; grows once the whole graph is solved at it.
        entries: Edge entries that a region may hold; grows while regions are solved to optimality.
        tried: Regions drawn.
        won: Regions that improved something.
    """

    width: int
    entries: float = _ENTRIES_AT_FIRST
    tried: int = 0
    won: int = 0


class Neighbourhoods:
    """Regions of a model and their exact re-optimisation.

    Attributes:
        exhausted: Whether a region with every node and strategy was solved to optimality.
    """

    def __init__(self, model: Model, seed: int) -> None:
        """Lists the neighbours and usage entries of every node."""
        self._model = model
        self._random = np.random.default_rng(seed)
        self._starts = np.concatenate([[0], np.cumsum(model.sizes)])[:-1].tolist()
        self.reset()
        self.exhausted = False
        self._around: list[list[tuple[int, int]]] = [[] for _ in model.costs]
        for e, (u, v) in enumerate(model.edge_nodes.tolist()):
            self._around[u].append((v, e))
            self._around[v].append((u, e))
        order = np.argsort(model.usage.node, kind="stable")
        cuts = np.searchsorted(model.usage.node[order], np.arange(len(model.costs) + 1))
        self._entries_of = [order[a:b] for a, b in pairwise(cuts.tolist())]

    def reset(self) -> None:
        """Forgets how the widths have done: after a jump they may do otherwise."""
        widest = max(map(len, self._model.costs))
        self._arms = [_Arm(w) for k, w in enumerate(_WIDTHS) if not k or w < widest]
        self._arm = self._arms[0]

    def draw(self, load: Floats, weights: Floats) -> Ints:
        """A random region around one or two centres.

        Args:
            load: Memory per row of the current labelling.
            weights: How promising each node is as a centre, >= 0, ``[nodes]``.

        Returns:
            Its nodes, ascending.
        """
        # Arms that win more are drawn more, none is ever forgotten.
        odds = np.array([(1.0 + a.won) / (2.0 + a.tried) for a in self._arms])
        self._arm = self._arms[int(self._random.choice(len(odds), p=odds / odds.sum()))]
        # Two centres let memory move between places that no edge joins.
        centres = 1 if not len(load) or self._random.random() < 0.6 else 2
        budget = self._arm.entries / centres
        region: set[int] = set()
        for centre in self._random.choice(len(weights), centres, p=weights / weights.sum()):
            region |= self._grow(int(centre), budget)
        return np.array(sorted(region), np.int64)

    def _grow(self, centre: int, budget: float) -> set[int]:
        """Breadth first from a centre until the edges inside hold the budget."""
        width, costs = self._arm.width, self._model.costs
        region = {centre}
        queue = deque([centre])
        held = 0
        while queue and held < budget:
            node = queue.popleft()
            for i in self._random.permutation(len(self._around[node])).tolist():
                other = self._around[node][i][0]
                if other in region:
                    continue
                inside = sum(
                    min(width, len(costs[n])) for n, _ in self._around[other] if n in region
                )
                added = inside * min(width, len(costs[other]))
                if held + added > budget and held:
                    continue
                held += added
                region.add(other)
                queue.append(other)
        return region

    def improve(
        self, labels: Ints, load: Floats, region: Ints, scores: Sequence[Floats], deadline: Deadline
    ) -> Ints | None:
        """Re-optimises a region exactly.

        Args:
            labels: A labelling that fits.
            load: Its memory per row.
            region: The nodes to free, from `draw`.
            scores: Several flat rankings of all strategies, lower is more promising: where a width
                limits the choice, the best of each are kept.
            deadline: When to stop.

        Returns:
            The labelling with the region at its best, or None if nothing better was found.
        """
        part = self._part(labels, load, region)
        own = labels[region]
        current = part.evaluate(own)
        keep = self._promising(labels, region, scores)
        narrow, lift = restrict(part, keep, "promising")
        arm = self._arm
        arm.tried += 1
        try:
            reduced = presolve(narrow)
        except NoLabellingError:
            return None
        if reduced.model.entries > _REDUCED_AT_MOST:
            arm.entries = max(_ENTRIES_AT_LEAST, 0.6 * arm.entries)
            return None
        longest = deadline.share(_LONGEST)
        busy = peaks(_nearly_full(part, own, reduced.model), at_most=60)
        answer = solve_exact(
            reduced.model, longest, rows=busy, relax_first=False, node_limit=_BRANCH_LIMIT
        )
        factor = 0.5 if longest.passed else 0.7
        if answer.status == "optimal":
            factor = 1.4 if reduced.model.entries < _EASY else 1.1
            if len(region) == len(labels):
                # The whole graph at this width is solved: only a wider choice can help.
                self.exhausted = not keep
                arm.width = math.ceil(1.5 * arm.width)
        arm.entries = float(np.clip(arm.entries * factor, _ENTRIES_AT_LEAST, _ENTRIES_AT_MOST))
        if answer.labels is None:
            return None
        lifted = lift.up(reduced.up(answer.labels))
        if part.evaluate(lifted) >= current - 1e-9 * max(1.0, abs(current)):
            return None
        arm.won += 1
        moved = labels.copy()
        moved[region] = lifted
        return moved

    def _promising(self, labels: Ints, region: Ints, scores: Sequence[Floats]) -> dict[int, Ints]:
        """The strategies that stay open, where a node has more than the width allows."""
        keep: dict[int, Ints] = {}
        each = max(1, self._arm.width // max(1, len(scores)))
        for i, node in enumerate(region.tolist()):
            size = len(self._model.costs[node])
            if size <= self._arm.width:
                continue
            start = self._starts[node]
            best = [np.argsort(s[start : start + size], kind="stable")[:each] for s in scores]
            # A few at random, so that no strategy is out of reach for good.
            lucky = self._random.integers(0, size, each)
            keep[i] = np.unique(np.concatenate([*best, lucky, [labels[node]]]))
        return keep

    def _part(self, labels: Ints, load: Floats, region: Ints) -> Model:
        """The model of a region, given the labels of everything else."""
        model = self._model
        position = {n: i for i, n in enumerate(region.tolist())}
        costs = [model.costs[n].copy() for n in region.tolist()]
        ends, matrices = [], []
        for n, i in position.items():
            for other, e in self._around[n]:
                matrix = model.edge_costs[e] if n < other else model.edge_costs[e].T
                at = position.get(other)
                if at is None:
                    costs[i] += matrix[:, labels[other]]
                elif n < other:
                    ends.append((i, at))
                    matrices.append(matrix)
        usage = model.usage
        own = np.concatenate([*(self._entries_of[n] for n in region.tolist()), _NONE])
        inner = np.array([position[n] for n in usage.node[own].tolist()], np.int64)
        vectors = [usage.vectors[e] for e in own.tolist()]
        mine = Usage(inner, usage.lo[own], usage.hi[own], vectors, usage.capacity, usage.times)
        if usage.rows:
            mine.capacity = usage.capacity - (load - mine.load(labels[region]))
        hinges = [_given(h, labels, position) for h in model.hinges]
        edge_nodes = np.array(ends, np.int64).reshape(-1, 2)
        return Model(costs, edge_nodes, matrices, mine, hinges)


_NONE = np.zeros(0, np.int64)


def _nearly_full(part: Model, labels: Ints, reduced: Model) -> Floats:
    """Rows of the reduced model whose room is small, as positive numbers, others as zero."""
    if not reduced.usage.rows:
        return np.zeros(0)
    at = np.searchsorted(part.usage.times, reduced.usage.times)
    room = (part.usage.capacity - part.usage.load(labels))[at]
    return np.maximum(0.0, 1.0 - room / np.maximum(1.0, np.abs(reduced.usage.capacity)))


def _given(hinge: Hinge, labels: Ints, position: dict[int, int]) -> Hinge:
    """The hinge term with everything outside the region put in as a constant."""
    inner = Hinge(hinge.weight, hinge.offset)
    for node, vector in hinge.node_terms.items():
        if node in position:
            inner.add_node(position[node], vector)
        else:
            inner.offset += float(vector[labels[node]])
    for (u, v), matrix in hinge.edge_terms.items():
        if u in position and v in position:
            inner.add_edge(position[u], position[v], matrix)
        elif u in position:
            inner.add_node(position[u], matrix[:, labels[v]])
        elif v in position:
            inner.add_node(position[v], matrix[labels[u]])
        else:
            inner.offset += float(matrix[labels[u], labels[v]])
    return inner
