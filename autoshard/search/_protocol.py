"""The interface for another solver, and the referee that its answers go through."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from numpy.typing import ArrayLike

from autoshard.search._evaluate import evaluate
from autoshard.search._options import Solution, SolverOptions
from autoshard.search._problem import Problem
from autoshard.search.errors import ProblemError

__all__ = ["Solver", "referee"]


class Solver(Protocol):
    """Anything that is called like `autoshard.search._solve`.

    A solver sees the whole problem: ties, multiplicities, pay-once groups, overlap terms and the
    half-open intervals are part of it, and `Evaluation.violations` says in words what a labelling
    breaks. It may ignore options that it has no use for, but not the time limit.
    """

    def __call__(
        self,
        problem: Problem,
        options: SolverOptions | None = None,
        *,
        warm_starts: Sequence[ArrayLike] = (),
    ) -> Solution:
        """Solves the problem."""
        ...


def referee(
    solver: Solver,
    problem: Problem,
    options: SolverOptions | None = None,
    *,
    warm_starts: Sequence[ArrayLike] = (),
) -> Solution:
    """Runs a solver and checks every claim that can be checked.

    Args:
        solver: The solver.
        problem: The problem.
        options: Passed on.
        warm_starts: Passed on.

    Returns:
        Its solution, if the labels are feasible, the cost is what they cost, and the bound is not
        above the cost. That a bound is valid cannot be checked from outside.

    Raises:
        ProblemError: With the claim that does not hold.
    """
    started_s = time.monotonic()
    solution = solver(problem, options, warm_starts=warm_starts)
    if solution.labels is None:
        if solution.status in ("optimal", "feasible"):
            raise ProblemError("solution", f"status {solution.status!r} without labels")
        return solution
    found = evaluate(problem, solution.labels)
    if not found.feasible:
        raise ProblemError("solution", f"not feasible: {'; '.join(found.violations[:5])}")
    slack = 1e-9 * max(1.0, abs(found.cost))
    if not math.isclose(found.cost, solution.cost, rel_tol=1e-9, abs_tol=1e-9):
        raise ProblemError("solution", f"claims cost {solution.cost}, but costs {found.cost}")
    if solution.bound > found.cost + slack:
        raise ProblemError("solution", f"bound {solution.bound} is above the cost {found.cost}")
    spent_s = time.monotonic() - started_s
    if options is not None and options.time_limit_s is not None:
        allowed_s = 1.1 * options.time_limit_s + 1.0
        if spent_s > allowed_s:
            raise ProblemError("solution", f"took {spent_s:.1f} s of {options.time_limit_s} s")
    return solution
