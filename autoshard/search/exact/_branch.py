"""Proving optimality: the tight formulation in HiGHS, with memory rows added as they bind."""

# scipy ships no types, and what pyright infers from its defaults is too narrow.
# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportReturnType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp

from autoshard.search._clock import Deadline
from autoshard.search._model import Floats, Ints, Model
from autoshard.search.exact._formulation import Formulation

__all__ = ["ExactAnswer", "peaks", "solve_exact"]

# Up to this many rows all go into the first program: generating them would cost more solves.
_FEW_ROWS = 400
_MANY_AT_ONCE = 100
_NEIGHBOURHOOD = 20


@dataclass(slots=True)
class ExactAnswer:
    """What the exact method found.

    Attributes:
        status: ``"optimal"`` and ``"infeasible"`` are proofs; ``"limit"`` is not.
        labels: The best labelling found, if any.
        bound: Lower bound on the cost of every labelling that fits.
        prices: Price per memory row in the linear relaxation, zero where none was solved.
    """

    status: Literal["optimal", "infeasible", "limit"]
    labels: Ints | None
    bound: float
    prices: Floats


def peaks(excess: Floats, at_most: int = _MANY_AT_ONCE) -> Ints:
    """Rows that are violated and worst in their neighbourhood, worst first, ascending order.

    Neighbouring rows hold nearly the same nodes, so one of them stands for all.
    """
    if not len(excess) or not (excess > 0).any():
        return np.zeros(0, np.int64)
    width = min(_NEIGHBOURHOOD, len(excess))
    padded = np.pad(excess, width, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1)
    found = np.flatnonzero((excess > 0) & (excess >= windows.max(1)))
    worst = found[np.argsort(-excess[found], kind="stable")][:at_most]
    return np.sort(worst)


def solve_exact(
    model: Model,
    deadline: Deadline,
    *,
    rows: Ints | None = None,
    relax_first: bool = True,
    node_limit: int | None = None,
    gap: float = 0.0,
) -> ExactAnswer:
    """Solves a model by branch and bound over the tight formulation.

    Args:
        model: The model; arc consistent.
        deadline: When to stop.
        rows: Memory rows that are likely to bind, to begin with.
        relax_first: Find binding rows with the linear relaxation before branching.
        node_limit: Stop branching after that many nodes.
        gap: Relative gap that is good enough.

    Returns:
        The answer; its labels fit in memory and its bound holds for the whole model.
    """
    form = Formulation.build(model)
    few = model.usage.rows <= _FEW_ROWS
    active = np.arange(model.usage.rows) if few else np.unique(_ints(rows))
    bound = -math.inf
    prices = np.zeros(model.usage.rows)
    if relax_first:
        active, bound, feasible = _generate_rows(form, active, deadline, prices)
        if not feasible:
            return ExactAnswer("infeasible", None, math.inf, prices)
    cuts: list[Ints] = []
    best: Ints | None = None
    best_cost = math.inf
    while not deadline.passed:
        options = {"mip_rel_gap": gap, "time_limit": min(deadline.left_s, 1e7)}
        if node_limit is not None:
            options["node_limit"] = node_limit
        found = _run(form, active, cuts, np.ones(form.offsets[-1]), options)
        if found.status == 2:
            return ExactAnswer("infeasible", None, math.inf, prices)
        if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
            bound = max(bound, _shy(found.mip_dual_bound * form.scale) + model.constant)
        if found.x is None:
            return ExactAnswer("limit", best, bound, prices)
        labels = form.labels(found.x)
        excess = _excess(model, labels)
        if (excess <= 0).all():
            cost = model.evaluate(labels)
            if cost < best_cost:
                best, best_cost = labels, cost
            # Solved to a gap of zero, the cost is its own bound, free of the solver's rounding.
            if found.status == 0 and gap == 0:
                return ExactAnswer("optimal", best, best_cost, prices)
            status = "optimal" if found.status == 0 else "limit"
            return ExactAnswer(status, best, min(bound, best_cost), prices)
        worst = peaks(excess)
        fresh = np.setdiff1d(worst, active)
        if len(fresh):
            active = np.union1d(active, fresh)
        else:
            cuts += [_cover(form, labels, int(r)) for r in worst]
    return ExactAnswer("limit", best, bound, prices)


def _generate_rows(
    form: Formulation, active: Ints, deadline: Deadline, prices: Floats
) -> tuple[Ints, float, bool]:
    """Adds rows until the linear relaxation satisfies all of them, and notes their prices."""
    bound = -math.inf
    capacity = form.model.usage.capacity
    tolerance = 1e-6 * np.maximum(np.abs(capacity), 1.0)
    while not deadline.passed:
        options = {"time_limit": min(deadline.left_s, 1e7)}
        found = _relax(form, active, options)
        if found.status == 2:
            return active, math.inf, False
        if found.status != 0 or found.x is None:
            break
        bound = _shy(found.fun * form.scale) + form.model.constant
        _note_prices(form, active, found, prices)
        violated = form.node_usage(found.x) - capacity - tolerance
        fresh = np.setdiff1d(peaks(violated), active)
        if not len(fresh):
            break
        active = np.union1d(active, fresh)
    return active, bound, True


def _relax(form: Formulation, rows: Ints, options: dict[str, float]) -> OptimizeResult:
    left, right = form.inequalities(rows, [])
    return linprog(
        form.objective,
        A_ub=left if left.shape[0] else None,
        b_ub=right if left.shape[0] else None,
        A_eq=form.equalities,
        b_eq=form.targets,
        bounds=np.stack([np.zeros(len(form.objective)), form.upper_bounds()], axis=1),
        method="highs-ds",
        options=options,
    )


def _note_prices(form: Formulation, rows: Ints, found: OptimizeResult, prices: Floats) -> None:
    if not len(rows):
        return
    hinges = len(form.model.hinges)
    prices[:] = 0.0
    duals = -np.asarray(found.ineqlin.marginals)[hinges : hinges + len(rows)]
    prices[rows] = np.maximum(0.0, duals) * form.scale / form.row_units(rows)


def _run(
    form: Formulation,
    rows: Ints,
    cuts: list[Ints],
    integral: Floats,
    options: dict[str, float],
) -> OptimizeResult:
    left, right = form.inequalities(rows, cuts)
    constraints = [LinearConstraint(form.equalities, form.targets, form.targets)]
    if left.shape[0]:
        constraints.append(LinearConstraint(left, -np.inf, right))
    integrality = np.zeros(len(form.objective))
    integrality[: form.offsets[-1]] = integral
    return milp(
        form.objective,
        constraints=constraints,
        bounds=Bounds(0, form.upper_bounds()),
        integrality=integrality,
        options=options,
    )


def _shy(bound: float) -> float:
    """A solver's bound, lowered by what its tolerances can amount to."""
    return bound - 1e-6 * max(1.0, abs(bound))


def _excess(model: Model, labels: Ints) -> Floats:
    if not model.usage.rows:
        return np.zeros(0)
    return model.usage.load(labels) - model.usage.capacity


def _cover(form: Formulation, labels: Ints, row: int) -> Ints:
    """Columns of which not all can be one: a minimal set whose memory overfills the row.

    The solver lets a row be violated by its tolerance; a cover inequality (Balas 1975) says the
    same with coefficients of one, which no tolerance lets slip.
    """
    usage = form.model.usage
    held: dict[int, float] = {}
    for e in np.flatnonzero((usage.lo <= row) & (row < usage.hi)).tolist():
        node = int(usage.node[e])
        held[node] = held.get(node, 0.0) + float(usage.vectors[e][labels[node]])
    cover, total = [], 0.0
    for node, amount in sorted(held.items(), key=lambda item: (-item[1], item[0])):
        if total > usage.capacity[row]:
            break
        cover.append(int(form.offsets[node] + labels[node]))
        total += amount
    return np.array(cover, np.int64)


def _ints(rows: Ints | None) -> Ints:
    return np.zeros(0, np.int64) if rows is None else np.asarray(rows, np.int64)
