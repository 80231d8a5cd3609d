"""Solving a problem: reductions, then proof where that is possible and bounded search where not."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search._clock import Deadline
from autoshard.search._compile import compile_problem
from autoshard.search._evaluate import checked_labels, evaluate
from autoshard.search._infeasible import Infeasibility, explain_infeasible
from autoshard.search._model import Ints, Lift, Model
from autoshard.search._options import Progress, Solution, SolverOptions, Status
from autoshard.search._parts import PartAnswer, overfull, solve_part
from autoshard.search._problem import Problem
from autoshard.search.presolve import NoLabellingError, Presolved, components, presolve

__all__ = ["solve"]

# Lifting, refereeing and leaving Python take a moment too: kept off the methods' time.
_RESERVE = 0.03
_STEP = 0.25


def solve(
    problem: Problem,
    options: SolverOptions | None = None,
    *,
    warm_starts: Sequence[ArrayLike] = (),
) -> Solution:
    """Finds a cheap feasible labelling and a lower bound that certifies how good it is.

    Example:
        >>> problem = Problem(
        ...     node_costs=[[0.0, 5.0], [3.0, 0.0]], edges=[(0, 1)], edge_costs=[[[0, 9], [9, 0]]]
        ... )
        >>> solution = solve(problem)
        >>> solution.status, solution.cost, solution.labels.tolist()
        ('optimal', 3.0, [0, 0])

    Args:
        problem: What to label.
        options: How; the defaults prove small problems and have no time limit.
        warm_starts: Labellings to begin from. The answer is never dearer than the best feasible
            one of them.

    Returns:
        The solution. Its labels, if any, are feasible by `evaluate`.

    Raises:
        ProblemError: If a warm start is not one valid strategy index per node.
        MemoryBudgetError: If no method fits into ``options.memory_limit_bytes``.
    """
    run = _Run(problem, options or SolverOptions())
    starts = [checked_labels(problem, w) for w in warm_starts]
    for labels in starts:
        run.offer(labels, "warm start")
    return run.finish(run.search(starts))


class _Run:
    """One call of `solve`: the clock, the incumbent and the bound."""

    def __init__(self, problem: Problem, options: SolverOptions) -> None:
        self._problem = problem
        self._options = options
        self._started_s = time.monotonic()
        limit = options.time_limit_s
        self._deadline = Deadline.after(None if limit is None else limit * (1.0 - _RESERVE))
        self._labels: Ints | None = None
        self._cost = math.inf
        self._bound = -math.inf
        self._prices: list[tuple[int, float]] = []

    def offer(self, labels: Ints, phase: str) -> None:
        """Referees a labelling and keeps it if it is the best feasible one so far."""
        found = evaluate(self._problem, labels)
        if found.feasible and found.cost < self._cost:
            self._labels, self._cost = labels, found.cost
            self.report(phase, found.cost, self._bound)

    def report(self, phase: str, cost: float, bound: float) -> None:
        """Calls the caller's progress function."""
        if self._options.progress is not None:
            seconds = time.monotonic() - self._started_s
            best, floor = min(cost, self._cost), max(bound, self._bound)
            self._options.progress(Progress(seconds=seconds, phase=phase, cost=best, bound=floor))

    def search(self, starts: list[Ints]) -> bool:
        """Searches; returns whether it is proven that nothing is feasible."""
        model, lift = compile_problem(self._problem)
        early = self._deadline.share(0.4)
        try:
            reduced = presolve(model, self._options.reductions, out_of_time=lambda: early.passed)
        except NoLabellingError:
            return True
        if overfull(reduced.model):
            return True
        # One step of a method, and the way back up, take as long on a given machine as the way down
        # does, within a factor: what that took says how early to stop.
        spent_s = time.monotonic() - self._started_s
        self._deadline = Deadline(self._deadline.at_s - _STEP * spent_s)
        self.report("presolve", self._cost, self._bound)
        parts = components(reduced.model)
        projected = [reduced.down(lift.down(s)) for s in starts]
        answers: dict[int, PartAnswer] = {}
        # Small parts first: what they do not need of their share is left to the large ones.
        order = sorted(range(len(parts)), key=lambda k: (_weight(parts[k][1]), k))
        weights = [float(_weight(parts[k][1])) for k in order]

        def told(phase: str, cost: float, bound: float) -> None:
            # Of several parts each knows only itself: their sums are reported at the end.
            if len(parts) == 1:
                self.report(phase, cost, bound)

        for at, k in enumerate(order):
            nodes, part = parts[k]
            share = self._deadline.share(weights[at] / sum(weights[at:]))
            answers[k] = solve_part(part, share, self._options, [p[nodes] for p in projected], told)
            if answers[k].infeasible:
                return True
        self._combine(parts, [answers[k] for k in range(len(parts))], reduced, lift)
        return False

    def _combine(
        self,
        parts: Sequence[tuple[Ints, Model]],
        answers: list[PartAnswer],
        reduced: Presolved,
        lift: Lift,
    ) -> None:
        # A single part is the model itself and carries its constant.
        constant = reduced.model.constant if len(parts) > 1 else 0.0
        self._bound = constant + sum(a.bound for a in answers)
        if self._problem.integral and math.isfinite(self._bound):
            self._bound = float(math.ceil(self._bound - 1e-6 - 1e-12 * abs(self._bound)))
        self._prices = sorted(p for a in answers for p in a.prices)
        labels = np.zeros(len(reduced.model.costs), np.int64)
        for (nodes, _), answer in zip(parts, answers, strict=True):
            if answer.labels is None:
                return
            labels[nodes] = answer.labels
        self.offer(lift.up(reduced.up(labels)), "lifted")

    def finish(self, infeasible: bool) -> Solution:
        """The solution as known now."""
        why: Infeasibility | None = None
        status: Status = "unknown"
        if self._labels is not None:
            # Sums in different orders can put a proven bound a rounding error above the cost.
            self._bound = min(self._bound, self._cost)
            slack = self._options.gap * abs(self._cost) + 1e-9 * max(1.0, abs(self._cost))
            status = "optimal" if self._cost - self._bound <= slack else "feasible"
        elif infeasible:
            status, self._bound = "infeasible", math.inf
        if self._labels is None and self._options.diagnose:
            limit = self._options.time_limit_s
            left = math.inf if limit is None else self._started_s + limit - time.monotonic()
            # Explaining compiles and reduces the problem anew, so the last moments are too few.
            if left > (0.0 if infeasible or limit is None else 0.2 * limit):
                why = explain_infeasible(self._problem, None if limit is None else left)
            if why is not None and not infeasible and self._rules_out(why):
                status, self._bound = "infeasible", math.inf
            elif not infeasible:
                why = None
        return Solution(
            status=status,
            labels=self._labels,
            cost=self._cost,
            bound=self._bound,
            seconds=time.monotonic() - self._started_s,
            memory_prices=tuple(self._prices),
            infeasibility=why,
        )

    def _rules_out(self, why: Infeasibility) -> bool:
        limit = self._problem.usage_limit
        return limit is not None and why.minimum_limit > limit * (1 + 1e-9)


def _weight(part: Model) -> int:
    return 1 + part.entries + len(part.usage.vectors)
