"""Solving one connected part of a reduced model: which method, with how much time and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autoshard.search import exact, large
from autoshard.search._clock import Deadline
from autoshard.search._model import Floats, Ints, Model
from autoshard.search._options import SolverOptions
from autoshard.search.errors import MemoryBudgetError

__all__ = ["PartAnswer", "overfull", "solve_part"]

# Edge entries up to which the exact method is tried first, with and without a time limit.
_EXACT_FIRST = 100_000
_EXACT_SHARE = 0.5
_START_SHARE = 0.15
_RELAX_SHARE = 0.4

Told = Callable[[str, float, float], None]


@dataclass(slots=True)
class PartAnswer:
    """What is known of one part.

    Attributes:
        labels: The best labelling that fits, or None.
        cost: Its cost.
        bound: Lower bound on every labelling's cost.
        infeasible: Whether it is proven that no labelling fits.
        prices: ``(time, price)`` of rows whose memory has a price.
    """

    labels: Ints | None = None
    cost: float = math.inf
    bound: float = -math.inf
    infeasible: bool = False
    prices: list[tuple[int, float]] = field(default_factory=list)

    def done(self, gap: float) -> bool:
        """Whether cost and bound are as close as asked."""
        if self.labels is None:
            return False
        return self.cost - self.bound <= gap * abs(self.cost) + 1e-9 * max(1.0, abs(self.cost))


def solve_part(
    model: Model, deadline: Deadline, options: SolverOptions, starts: list[Ints], told: Told
) -> PartAnswer:
    """Solves one part.

    Args:
        model: The part, arc consistent.
        deadline: When to stop.
        options: The caller's options.
        starts: Labellings to begin from; they need not fit.
        told: Called with phase, cost and bound when something was found.

    Returns:
        The best that is known when done or out of time.
    """
    if not len(model.edge_nodes) and not model.usage.rows and not model.hinges:
        labels = np.array([int(np.argmin(c)) for c in model.costs], np.int64)
        cost = model.evaluate(labels)
        return PartAnswer(labels, cost, cost)
    provable, searchable = _affordable(model, options)
    answer = PartAnswer()
    for start in starts:
        _keep(answer, model, start)
    exact_first = provable and (
        options.method == "exact" or (options.method == "auto" and model.entries <= _EXACT_FIRST)
    )
    if exact_first:
        alone = options.method == "exact" or not searchable
        limit = deadline if alone else deadline.share(_EXACT_SHARE)
        _prove(model, limit, options, answer, told)
    if answer.infeasible or answer.done(options.gap) or not searchable:
        return answer
    if options.method != "exact" or answer.labels is None:
        _approximate(model, deadline, options, answer, told)
    return answer


def _affordable(model: Model, options: SolverOptions) -> tuple[bool, bool]:
    """Whether the exact and the large method fit into the memory allowed."""
    allowed = options.memory_limit_bytes
    if allowed is None:
        return True, True
    provable = exact.estimated_bytes(model) <= allowed
    searchable = large.estimated_bytes(model) <= allowed
    if not provable and not searchable:
        needed = min(exact.estimated_bytes(model), large.estimated_bytes(model))
        raise MemoryBudgetError(needed, allowed)
    return provable and options.method != "large", searchable


def _prove(
    model: Model, deadline: Deadline, options: SolverOptions, answer: PartAnswer, told: Told
) -> None:
    found = exact.solve_exact(model, deadline, gap=options.gap)
    if found.status == "infeasible":
        answer.infeasible = True
        return
    answer.bound = max(answer.bound, found.bound)
    if found.labels is not None:
        _keep(answer, model, found.labels)
    answer.prices = _priced_times(model, found.prices)
    told("exact", answer.cost, answer.bound)


def _approximate(
    model: Model, deadline: Deadline, options: SolverOptions, answer: PartAnswer, told: Told
) -> None:
    search = large.LargeSearch(model, options, told)
    if answer.labels is not None:
        search.offer(answer.labels, "warm start")
    if answer.labels is None:
        search.start(deadline, deadline.share(_START_SHARE))
    search.relax(deadline.share(_RELAX_SHARE))
    search.polish(deadline)
    if search.answer.labels is not None:
        _keep(answer, model, search.answer.labels)
    if search.answer.bound >= answer.bound:
        answer.bound = search.answer.bound
        answer.prices = _priced_times(model, search.answer.prices)


def _keep(answer: PartAnswer, model: Model, labels: Ints) -> None:
    cost = model.evaluate(labels)
    if cost < answer.cost and model.fits(labels):
        answer.labels, answer.cost = labels, cost


def overfull(model: Model) -> bool:
    """Whether some memory row overflows even if every entry takes its least."""
    usage = model.usage
    if not usage.rows:
        return False
    least = np.array([v.min() for v in usage.vectors])
    floor = usage.spread(least) if len(least) else np.zeros(usage.rows)
    return bool((floor > usage.capacity).any())


def _priced_times(model: Model, prices: Floats) -> list[tuple[int, float]]:
    times = model.usage.times
    return [(int(times[r]), float(prices[r])) for r in np.flatnonzero(prices > 0).tolist()]
