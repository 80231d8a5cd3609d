"""Lagrangian relaxation of memory, interleaved with message passing.

A price per memory row and a multiplier per hinge term turn the model into a purely pairwise one:

    min_x cost(x) + sum_r price_r * (load_r(x) - capacity_r) + sum_h m_h * inside_h(x)

is a lower bound for prices >= 0 and ``0 <= m_h <= weight_h`` (a hinge is the maximum of
``m * inside`` over that range), and message passing bounds the minimum from below in turn. Prices
move along the violation, with Polyak's step, on *peaks* only: neighbouring rows hold nearly the
same nodes, and pushing each of thousands of them at once would multiply the step by their number.
The violation is averaged over recent labellings (Barahona and Anbil's volume algorithm, Math.
Program. 87, 2000), which stops the prices from swinging between two extremes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autoshard.search._clock import Deadline
from autoshard.search._model import Floats, Ints, Model
from autoshard.search.exact import peaks
from autoshard.search.large._memory import FlatUsage
from autoshard.search.large._messages import Messages

__all__ = ["Lagrangian", "Step"]

_AVERAGE = 0.7
_MEMORY = 0.95
_PATIENCE = 10
_SHRINK = 0.7
_WARM_UP_SWEEPS = 10


@dataclass(slots=True)
class Step:
    """What one iteration found.

    Attributes:
        iteration: Counts from zero.
        labels: A labelling rounded from the messages; it may not fit in memory.
        load: Its memory per row.
        bound: The best lower bound so far.
        improved: Whether this iteration raised it noticeably.
    """

    iteration: int
    labels: Ints
    load: Floats
    bound: float
    improved: bool


class Lagrangian:
    """Prices of memory and hinge terms, and the messages under them.

    Attributes:
        memory: The model's memory in flat arrays.
        messages: The message passing engine.
        prices: Price per memory row, >= 0.
        bound: Best lower bound so far on the cost of every labelling that fits.
        best_prices: The prices under which it was found.
        target: Cost to aim at: the best labelling known, from the caller.
        step_size: Polyak's factor; shrinks when the bound stalls.
        frequency: How often each strategy was chosen lately, flat: the volume algorithm's estimate
            of the primal solution of the relaxation.
    """

    def __init__(self, model: Model, memory: FlatUsage) -> None:
        """Starts with every price at zero."""
        self.model = model
        self.memory = memory
        self.messages = Messages(model)
        self.prices: Floats = np.zeros(len(memory.capacity))
        self.best_prices = self.prices
        self.bound = -math.inf
        self.target = math.inf
        self.step_size = 1.0
        self._base = self.messages.node_costs.copy()
        self._offsets = self.messages.offsets
        self._hinge_prices: Floats = np.zeros(len(model.hinges))
        self._hinge_nodes: Floats = np.zeros(len(self._base))
        self.frequency: Floats = np.zeros(len(self._base))
        self._average: Floats | None = None
        self._stalled = 0
        # Rows differ in size, so violations are taken relative to it.
        self._unit: Floats = np.maximum(np.abs(memory.capacity), 1.0)

    def priced_costs(self, prices: Floats | None = None) -> Floats:
        """Node costs plus prices of memory and hinge node terms, flat over strategies."""
        rate = self.prices if prices is None else prices
        return self._base + self.memory.prices(rate) + self._hinge_nodes

    def steps(self, deadline: Deadline, *, sweeps: int = 1) -> Iterator[Step]:
        """Iterates without end until the deadline.

        Args:
            deadline: When to stop.
            sweeps: Message passes for each change of prices.

        Yields:
            One step per change of prices.
        """
        for _ in range(_WARM_UP_SWEEPS):
            if deadline.passed:
                return
            self.bound = max(self.bound, self._sweep())
        iteration = 0
        while not deadline.passed:
            self.messages.node_costs = self.priced_costs()
            bound = max(self._sweep() for _ in range(sweeps))
            labels = self.messages.round(backward=iteration % 2 == 1)
            load = self.memory.load(labels)
            improved = bound > self.bound + 1e-4 * abs(self.bound)
            if bound > self.bound:
                self.bound, self.best_prices = bound, self.prices.copy()
            self.frequency *= _MEMORY
            self.frequency[self._offsets[:-1] + labels] += 1.0 - _MEMORY
            yield Step(iteration, labels, load, self.bound, improved)
            self._update(labels, load, bound, improved)
            iteration += 1

    def _sweep(self) -> float:
        """One message pass; its bound under the current prices."""
        bound = self.messages.sweep() + self.model.constant
        bound -= float(self.prices @ self.memory.capacity)
        bound += sum(
            m * h.offset for m, h in zip(self._hinge_prices, self.model.hinges, strict=True)
        )
        # What summation in floating point can have added.
        return bound - 1e-12 * abs(bound)

    def _update(self, labels: Ints, load: Floats, bound: float, improved: bool) -> None:
        self._stalled = 0 if improved else self._stalled + 1
        if self._stalled >= _PATIENCE:
            self._stalled = 0
            self.step_size *= _SHRINK
            self.prices = self.best_prices.copy()
        gap = self._gap(labels, bound)
        self._update_hinges(labels, gap)
        if not len(load):
            return
        old = load if self._average is None else self._average
        self._average = _AVERAGE * old + (1.0 - _AVERAGE) * load
        excess = self._average - self.memory.capacity
        direction = np.where(self.prices > 0, excess, 0.0)
        violated = peaks(excess / self._unit, at_most=200)
        direction[violated] = excess[violated]
        norm = float(direction @ direction)
        if norm > 0:
            self.prices = np.maximum(0.0, self.prices + self.step_size * gap / norm * direction)

    def _gap(self, labels: Ints, bound: float) -> float:
        """Distance to aim over: to the best labelling known, or to a guess that is not zero."""
        if math.isfinite(self.target):
            return max(self.target - bound, 0.02 * abs(self.target))
        cost = self.model.evaluate(labels)
        if not math.isfinite(cost):
            cost = abs(bound) + float(np.abs(self._base).max())
        return max(cost - bound, 0.05 * abs(cost), 1e-9)

    def _update_hinges(self, labels: Ints, gap: float) -> None:
        for h, hinge in enumerate(self.model.hinges):
            inside = hinge.inside(labels)
            norm = inside * inside
            if norm == 0:
                continue
            old = float(self._hinge_prices[h])
            new = min(hinge.weight, max(0.0, old + self.step_size * gap / norm * inside))
            # Full steps would jump between the ends of a short range.
            new = old + 0.3 * (new - old)
            self._hinge_prices[h] = new
            for node, vector in hinge.node_terms.items():
                a, b = self._offsets[node], self._offsets[node + 1]
                self._hinge_nodes[a:b] += (new - old) * vector
            for pair, matrix in hinge.edge_terms.items():
                self.messages.add_to_edge(pair, (new - old) * matrix)
