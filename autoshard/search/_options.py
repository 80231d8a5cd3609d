"""What a caller may ask of the solver, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from autoshard.search._infeasible import Infeasibility
from autoshard.search._model import Ints
from autoshard.search.errors import ProblemError
from autoshard.search.presolve import REDUCTIONS

__all__ = ["Progress", "Solution", "SolverOptions", "Status"]

Status = Literal["optimal", "feasible", "infeasible", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report while the solver works.

    Attributes:
        seconds: Since the solver was called.
        phase: What found it: ``"presolve"``, ``"messages"``, ``"forests"``, ``"repair"``,
            ``"regions"``, ``"exact"``.
        cost: Best cost so far; infinite before the first labelling that fits.
        bound: Best lower bound so far; minus infinity before the first.
    """

    seconds: float
    phase: str
    cost: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverOptions:
    """How to solve.

    Attributes:
        time_limit_s: Wall-clock limit; None runs until proven or until nothing improves any more.
        gap: Relative gap ``(cost - bound) / |cost|`` that is good enough; 0 asks for a proof.
        method: ``"auto"`` proves small problems and approximates large ones with a bound;
            ``"exact"`` and ``"large"`` insist.
        seed: For the random choices of the large method. The answer is a function of the problem,
            the options and the seed, unless a time limit strikes.
        reductions: Which reductions to apply; the optimum does not depend on it.
        memory_limit_bytes: What the solver itself may use beyond the problem, by its own estimate:
            methods that need more are not tried, and `MemoryBudgetError` is raised if none is left.
        diagnose: Whether an infeasible memory limit is explained, which is a problem of its own.
        progress: Called with each `Progress`.
    """

    time_limit_s: float | None = None
    gap: float = 0.0
    method: Literal["auto", "exact", "large"] = "auto"
    seed: int = 0
    reductions: tuple[str, ...] = tuple(REDUCTIONS)
    memory_limit_bytes: int | None = None
    diagnose: bool = True
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ProblemError("time_limit_s", f"{self.time_limit_s} is not a positive time")
        if not 0 <= self.gap < math.inf:
            raise ProblemError("gap", f"{self.gap} is not a relative gap >= 0")
        if self.method not in ("auto", "exact", "large"):
            raise ProblemError("method", f"{self.method!r} is not one of auto, exact, large")
        unknown = sorted(set(self.reductions) - set(REDUCTIONS))
        if unknown:
            raise ProblemError(
                "reductions", f"unknown {unknown}", mend=f"choose from {sorted(REDUCTIONS)}"
            )
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            raise ProblemError("memory_limit_bytes", f"{self.memory_limit_bytes} is not positive")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """A labelling with its certificate.

    Attributes:
        status: ``"optimal"``: proven within the gap asked for. ``"feasible"``: fits, not proven.
            ``"infeasible"``: proven that nothing fits. ``"unknown"``: nothing found in time.
        labels: Strategy index of every node, or None.
        cost: Its cost; infinite without labels.
        bound: Proven lower bound on the cost of every feasible labelling.
        seconds: Wall-clock time.
        memory_prices: ``(time, price)``: by how much the bound falls per unit of memory more at
            that time, as far as the method knows; empty where memory does not bind.
        infeasibility: Why nothing fits, where that is so and was asked for.
    """

    status: Status
    labels: Ints | None
    cost: float
    bound: float
    seconds: float
    memory_prices: tuple[tuple[int, float], ...] = field(default=())
    infeasibility: Infeasibility | None = None

    @property
    def gap(self) -> float:
        """``(cost - bound) / |cost|``; infinite without labels, zero where they meet."""
        if self.labels is None:
            return math.inf
        if self.cost <= self.bound:
            return 0.0
        return (self.cost - self.bound) / max(abs(self.cost), 1e-300)
