"""The method for large models: prices and messages, then forests, then regions solved exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoshard.search._clock import Deadline
from autoshard.search._model import Floats, Ints, Model
from autoshard.search._options import SolverOptions
from autoshard.search.exact import peaks
from autoshard.search.large._forest import ForestMoves
from autoshard.search.large._lagrange import Lagrangian
from autoshard.search.large._memory import FlatUsage
from autoshard.search.large._neighbourhood import Neighbourhoods
from autoshard.search.large._table import EdgeTable

__all__ = ["LargeAnswer", "LargeSearch"]

# Without a time limit the search ends by itself after this much without progress.
_STALLED_STEPS = 60
_MOST_STEPS = 600
_STALLED_REGIONS = 12
_STALLED_COVER = 4.0
_JUMPS = 1
_REPAIR_ROUNDS = 15
_REPAIR_EVERY = 20
# From prices of memory that drown every cost, down by this factor, this often.
_ANNEAL_FROM = 10.0
_ANNEAL_FACTOR = 4.0
_ANNEAL_ROUNDS = 9

Report = Callable[[str, float, float], None]


@dataclass(slots=True)
class LargeAnswer:
    """What the large method found.

    Attributes:
        labels: The best labelling that fits, if any was found.
        cost: Its cost; infinite if there is none.
        bound: Lower bound on the cost of every labelling that fits.
        prices: Shadow price per memory row at which the bound was found.
    """

    labels: Ints | None
    cost: float
    bound: float
    prices: Floats


class LargeSearch:
    """Bounds and labellings of one model, improved step by step.

    Attributes:
        answer: The state of knowledge; only ever improves.
    """

    def __init__(self, model: Model, options: SolverOptions, report: Report) -> None:
        """Builds the tables."""
        self.model = _with_hinge_edges(model)
        self._memory = FlatUsage(self.model)
        self._table = EdgeTable(self.model)
        self._forest = ForestMoves(self._table, options.seed)
        self._lagrangian = Lagrangian(self.model, self._memory)
        self._regions = Neighbourhoods(self.model, options.seed)
        self._base: Floats = np.concatenate(self.model.costs)
        self._starts: Ints = self._table.offsets[:-1]
        self._random = np.random.default_rng(options.seed)
        self._report = report
        self._gap = options.gap
        self.answer = LargeAnswer(None, math.inf, _cheapest(self.model), self._lagrangian.prices)

    @property
    def solved(self) -> bool:
        """Whether the bound has come as close to the cost as asked."""
        cost, bound = self.answer.cost, self.answer.bound
        slack = self._gap * abs(cost) + 1e-9 * max(1.0, abs(cost))
        return math.isfinite(cost) and cost - bound <= slack

    def cost(self, labels: Ints) -> float:
        """Cost of a labelling; forbidden entries count as a large number."""
        total = self.model.constant + float(self._base[self._starts + labels].sum())
        total += self._table.pairwise(labels)
        return total + sum(h.value(labels) for h in self.model.hinges)

    def offer(self, labels: Ints, phase: str) -> bool:
        """Keeps a labelling if it fits and is the best so far."""
        cost = self.cost(labels)
        if cost >= self.answer.cost or not self._fits(self._memory.load(labels)):
            return False
        if not self._allowed(labels):
            return False
        self.answer.labels, self.answer.cost = labels.copy(), cost
        self._lagrangian.target = cost
        self._report(phase, cost, self.answer.bound)
        return True

    def start(self, deadline: Deadline, soft: Deadline) -> None:
        """Finds a first labelling that fits, from the leanest one by block moves.

        Args:
            deadline: When to stop.
            soft: When to stop once there is a labelling.
        """
        self._descend(self._base, deadline, soft)

    def _descend(self, costs: Floats, deadline: Deadline, soft: Deadline) -> Ints | None:
        """Block moves from the leanest labels, at prices of memory that drown `costs` and fall.

        Returns:
            The last labelling on the way that fits, if any did.
        """
        labels, fitting = self._leanest(), None
        self.offer(labels, "repair")
        rows = len(self._memory.capacity)
        need = self._memory.prices(np.full(rows, 1.0 / max(1, rows)))
        tops = np.maximum.reduceat(need, self._starts) - np.minimum.reduceat(need, self._starts)
        price = _ANNEAL_FROM * self._table.forbidden_cost / max(float(tops.sum()), 1e-300)
        for _ in range(_ANNEAL_ROUNDS if rows else 1):
            for _ in range(2):
                if deadline.passed or (soft.passed and self.answer.labels is not None):
                    return fitting
                labels = self._forest.move(costs + price * need, labels)
                self.offer(labels, "forests")
                if self._fits(self._memory.load(labels)) and self._allowed(labels):
                    fitting = labels
            if fitting is not None and not self._fits(self._memory.load(labels)):
                break
            price /= _ANNEAL_FACTOR
        return fitting

    def _allowed(self, labels: Ints) -> bool:
        return math.isfinite(self.model.evaluate(labels))

    def relax(self, deadline: Deadline) -> None:
        """Raises the bound and collects labellings on the way."""
        quiet = 0
        for step in self._lagrangian.steps(deadline):
            found = self.offer(step.labels, "messages")
            labels = step.labels
            # Every rounding is a start for the forests, but an early one is a poor start.
            if step.iteration % 2 == 0 or quiet > _STALLED_STEPS // 2:
                labels = self._forest.move(self._lagrangian.priced_costs(), labels)
                found |= self.offer(labels, "forests")
            if self.answer.labels is None and step.iteration % _REPAIR_EVERY == _REPAIR_EVERY - 1:
                found |= self._repair(labels, deadline)
            if step.bound > self.answer.bound:
                self.answer.bound = step.bound
                self.answer.prices = self._lagrangian.best_prices
            quiet = 0 if found or step.improved else quiet + 1
            if self.solved or quiet >= _STALLED_STEPS or step.iteration >= _MOST_STEPS:
                break
            if step.iteration % 20 == 0:
                self._report("messages", self.answer.cost, self.answer.bound)

    def _fits(self, load: Floats) -> bool:
        return bool((load <= self._memory.capacity).all())

    def _repair(self, labels: Ints, deadline: Deadline) -> bool:
        """Raises the prices of overfull rows until block moves make the labelling fit."""
        capacity = self._memory.capacity
        prices = self._lagrangian.prices.copy()
        unit = (abs(self.cost(labels)) + 1.0) / np.maximum(1.0, np.abs(capacity))
        rate = 1e-2
        for _ in range(_REPAIR_ROUNDS):
            if deadline.passed:
                return False
            labels = self._forest.move(self._lagrangian.priced_costs(prices), labels)
            excess = self._memory.load(labels) - capacity
            if (excess <= 0).all() and self.offer(labels, "repair"):
                return True
            worst = peaks(excess / np.maximum(1.0, np.abs(capacity)), at_most=200)
            share = np.minimum(1.0, excess[worst] / np.maximum(1.0, np.abs(capacity[worst])))
            prices[worst] += rate * unit[worst] * (0.1 + share)
            rate *= 2.0
        return False

    def polish(self, deadline: Deadline) -> None:
        """Improves labellings by solving regions exactly; jumps where that no longer helps."""
        if self.answer.labels is None:
            return
        labels = self.answer.labels
        quiet, covered, jumps = 0, 0.0, 0
        while not deadline.passed and not self.solved:
            load = self._memory.load(labels)
            costs = self._table.conditional(self._lagrangian.priced_costs(), labels)
            region = self._regions.draw(load, self._promise(labels, costs))
            scores = (costs, self._lagrangian.messages.beliefs(), -self._lagrangian.frequency)
            moved = self._regions.improve(labels, load, region, scores, deadline)
            quiet, covered = quiet + 1, covered + len(region) / len(labels)
            if moved is not None:
                labels, quiet, covered = moved, 0, 0.0
                self.offer(moved, "regions")
            if self._regions.exhausted:
                # The region was everything, and solved: what stands is the optimum.
                self.answer.bound = self.answer.cost
            if quiet < _STALLED_REGIONS or covered < _STALLED_COVER:
                continue
            if math.isinf(deadline.at_s) and jumps >= _JUMPS:
                break
            # Every other time the search goes on from the best, with everything else forgotten.
            best = self.answer.labels
            labels = best if jumps % 2 else self._jump(best, deadline)
            quiet, covered, jumps = 0, 0.0, jumps + 1

    def _jump(self, best: Ints, deadline: Deadline) -> Ints:
        """A labelling in another basin: a new descent under noise as large as edges decide."""
        self._regions.reset()
        scale = self._table.forbidden_cost / max(1, len(best))
        noise = scale * self._random.random(len(self._base))
        found = self._descend(self._base + noise, deadline, deadline)
        return best if found is None else found

    def _promise(self, labels: Ints, costs: Floats) -> Floats:
        """Where regions should start: nodes whose label the messages would not have chosen.

        Args:
            labels: The current labels.
            costs: Flat cost of every strategy, given the labels of the others.

        Returns:
            A weight per node, all positive.
        """
        beliefs = self._lagrangian.messages.beliefs()
        least = np.minimum.reduceat(beliefs, self._starts)
        regret = np.maximum(0.0, beliefs[self._starts + labels] - least)
        weights = np.sqrt(regret) + 0.1 * np.sqrt(np.maximum(0.0, costs[self._starts + labels]))
        floor = 0.2 * float(weights.mean()) + 1e-12
        return np.minimum(weights, 1e3 * floor) + floor

    def _leanest(self) -> Ints:
        """Every node at the strategy that uses the least memory, over all rows together."""
        ones = np.ones(len(self._memory.capacity))
        need = self._memory.prices(ones) if len(ones) else self._base
        stops = self._table.offsets[1:].tolist()
        return np.array(
            [
                int(np.lexsort((self._base[a:b], need[a:b]))[0])
                for a, b in zip(self._starts.tolist(), stops, strict=True)
            ],
            np.int64,
        )


def _cheapest(model: Model) -> float:
    """The bound that needs no work: every node and edge at its own minimum."""
    nodes = sum(float(c.min()) for c in model.costs)
    return model.constant + nodes + sum(float(m.min()) for m in model.edge_costs)


def _with_hinge_edges(model: Model) -> Model:
    """The model with an edge, if only of zeros, under every edge term of a hinge."""
    known = {tuple(p) for p in model.edge_nodes.tolist()}
    missing = sorted({p for h in model.hinges for p in h.edge_terms} - known)
    if not missing:
        return model
    sizes = model.sizes
    return Model(
        model.costs,
        np.concatenate([model.edge_nodes, np.array(missing, np.int64)]),
        [*model.edge_costs, *(np.zeros((sizes[u], sizes[v])) for u, v in missing)],
        model.usage,
        model.hinges,
        model.constant,
    )
