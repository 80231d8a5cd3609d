"""Why nothing fits: the smallest memory limit that works, and the nodes that hold the memory."""

# scipy ships no types, and what pyright infers from its defaults is too narrow.
# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportReturnType=false

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array, hstack

from autoshard.search._clock import Deadline
from autoshard.search._compile import compile_problem
from autoshard.search._evaluate import usage_over_time
from autoshard.search._model import Floats, Hinge, Ints, Lift, Model
from autoshard.search._problem import Problem
from autoshard.search.exact._branch import peaks
from autoshard.search.exact._formulation import Formulation
from autoshard.search.presolve import NoLabellingError, Presolved, presolve

__all__ = ["Infeasibility", "explain_infeasible"]

_HOLDERS = 20
_REDUCTIONS = ("followers", "rows", "fixed", "dominance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasibility:
    """What stands in the way.

    Attributes:
        reason: ``"memory"``, or ``"forbidden"`` if forbidden strategies and pairs alone rule out
            every labelling, whatever the memory.
        minimum_limit: No labelling fits below this memory limit.
        proven_minimum: Whether a labelling fits at exactly `minimum_limit`.
        reachable_limit: A limit at which a labelling is known to fit; infinite if none is.
        time: When the memory peaks in the leanest labelling.
        holders: ``(node, memory)`` of what is held then, largest first; for ``"forbidden"`` the
            node that has no strategy left, with zero, if it is a single one.
    """

    reason: str
    minimum_limit: float
    proven_minimum: bool
    reachable_limit: float
    time: int
    holders: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        """One sentence for a person."""
        if self.reason == "forbidden":
            where = f"node {self.holders[0][0]}" if self.holders else "some node"
            return f"forbidden strategies and pairs leave {where} no strategy, whatever the memory"
        held = ", ".join(f"node {n}: {m:,.0f}" for n, m in self.holders[:5])
        kind = "the smallest feasible limit is" if self.proven_minimum else "no limit works below"
        return f"{kind} {self.minimum_limit:,.0f}; at time {self.time} memory is held by {held}"


def explain_infeasible(problem: Problem, time_limit_s: float | None = None) -> Infeasibility:
    """Finds the labelling with the smallest peak memory.

    Costs play no part: strategies and pairs are allowed or forbidden, and the largest memory in use
    at any time is minimised, by the reductions and then by branch and bound.

    Args:
        problem: The problem; its own limit is not looked at.
        time_limit_s: When to stop; what is then known is a bound.

    Returns:
        The smallest feasible limit or a lower bound on it, and the nodes that hold the memory.
    """
    deadline = Deadline.after(time_limit_s)
    # A limit of zero makes every row's excess the memory in use.
    model, lift = compile_problem(replace(problem, usage_limit=0.0, overlaps=()))
    try:
        reduced = presolve(_only_allowed(model), _REDUCTIONS, out_of_time=lambda: deadline.passed)
    except NoLabellingError as stuck:
        return _forbidden(_original(stuck.node, model, lift, problem))
    labels, bound = _smallest_peak(reduced.model, deadline)
    return _report(problem, lift, reduced, labels, bound)


def _forbidden(node: int) -> Infeasibility:
    return Infeasibility(
        reason="forbidden",
        minimum_limit=math.inf,
        proven_minimum=True,
        reachable_limit=math.inf,
        time=0,
        holders=((node, 0.0),) if node >= 0 else (),
    )


def _only_allowed(model: Model) -> Model:
    """The model with every finite cost zero, and only the edges that forbid something."""
    ends, matrices = [], []
    for pair, matrix in zip(model.edge_nodes, model.edge_costs, strict=True):
        if np.isinf(matrix).any():
            ends.append(pair)
            matrices.append(np.where(np.isinf(matrix), np.inf, 0.0))
    costs = [np.where(np.isinf(c), np.inf, 0.0) for c in model.costs]
    hinges: list[Hinge] = []
    return Model(costs, np.array(ends, np.int64).reshape(-1, 2), matrices, model.usage, hinges)


def _smallest_peak(model: Model, deadline: Deadline) -> tuple[Ints | None, float]:
    """Labels with the smallest excess, and a lower bound on it, of the reduced model.

    The two are equal where the smallest was found, to the solver's tolerance; the bound is infinite
    where forbidden pairs rule out every labelling.
    """
    usage = model.usage
    if not usage.rows:
        labels = _consistent(model)
        return labels, math.inf if labels is None else -math.inf
    least = np.array([v.min() for v in usage.vectors])
    bound = float(np.max(usage.spread(least) - usage.capacity))
    form = Formulation.build(model)
    best, best_peak = None, math.inf
    active = peaks(usage.spread(least) - usage.capacity - bound + 1.0)
    while not deadline.passed:
        found = _run(form, active, max(0.1, min(deadline.left_s, 1e7)))
        if found.mip_dual_bound is not None and np.isfinite(found.mip_dual_bound):
            bound = max(bound, float(found.mip_dual_bound) * _unit(form) - 1e-6 * _unit(form))
        if found.status == 2:
            return None, math.inf
        if found.x is None:
            break
        labels = form.labels(found.x)
        excess = usage.load(labels) - usage.capacity
        if np.isfinite(model.evaluate(labels)) and excess.max() < best_peak:
            best, best_peak = labels, float(excess.max())
        fresh = np.setdiff1d(peaks(excess - float(found.x[-1]) * _unit(form) - 1e-9), active)
        if found.status == 0 and not len(fresh):
            return best, best_peak
        if not len(fresh):
            break
        active = np.union1d(active, fresh)
    return best, bound


def _unit(form: Formulation) -> float:
    usage = form.model.usage
    most = usage.spread(np.array([v.max() for v in usage.vectors])) - usage.capacity
    return max(1.0, float(np.abs(most).max()))


def _run(form: Formulation, rows: Ints, time_limit_s: float) -> OptimizeResult:
    """Minimises the peak over some rows, in units that suit the solver; the last column is it."""
    usage, unit = form.model.usage, _unit(form)
    width = len(form.objective)
    at, columns, values = [], [], []
    for e in range(len(usage.vectors)):
        span = np.flatnonzero((usage.lo[e] <= rows) & (rows < usage.hi[e]))
        for r in span.tolist():
            vector: Floats = usage.vectors[e]
            at.append(np.full(len(vector), r))
            columns.append(form.offsets[usage.node[e]] + np.arange(len(vector)))
            values.append(vector / unit)
    empty = np.zeros(0, np.int64)
    where = (np.concatenate([*at, empty]), np.concatenate([*columns, empty]))
    load = coo_array((np.concatenate([*values, np.zeros(0)]), where), shape=(len(rows), width))
    peak = coo_array(-np.ones((len(rows), 1)))
    pad = coo_array((form.equalities.shape[0], 1))
    objective = np.zeros(width + 1)
    objective[-1] = 1.0
    integrality = np.zeros(width + 1)
    integrality[: form.offsets[-1]] = 1
    upper = np.append(form.upper_bounds(), np.inf)
    lower = np.zeros(width + 1)
    lower[-1] = -np.inf
    return milp(
        objective,
        constraints=[
            LinearConstraint(hstack([form.equalities, pad]).tocsr(), form.targets, form.targets),
            LinearConstraint(hstack([load, peak]).tocsr(), -np.inf, usage.capacity[rows] / unit),
        ],
        bounds=Bounds(lower, upper),
        integrality=integrality,
        options={"mip_rel_gap": 0.0, "time_limit": time_limit_s},
    )


def _consistent(model: Model) -> Ints | None:
    """Any labelling without forbidden entries, where no memory is left to decide on."""
    form = Formulation.build(model)
    found = milp(
        form.objective,
        constraints=[LinearConstraint(form.equalities, form.targets, form.targets)],
        bounds=Bounds(0, form.upper_bounds()),
        integrality=(np.arange(len(form.objective)) < form.offsets[-1]).astype(int),
    )
    return None if found.x is None else form.labels(found.x)


def _report(
    problem: Problem, lift: Lift, reduced: Presolved, labels: Ints | None, bound: float
) -> Infeasibility:
    if labels is None and bound == math.inf:
        return _forbidden(-1)
    if labels is None:
        least = np.array([u.min() for u in problem.usages])
        times, in_use = usage_over_time(problem, least)
        held, reachable, floor = least, math.inf, max(bound, float(in_use.max(initial=0.0)))
    else:
        chosen = lift.up(reduced.up(labels))
        held = np.array([u[s] for u, s in zip(problem.usages, chosen.tolist(), strict=True)])
        times, in_use = usage_over_time(problem, held)
        reachable = float(in_use.max(initial=0.0))
        floor = max(bound, 0.0) if reduced.model.usage.rows else reachable
    proven = math.isfinite(reachable) and reachable <= floor + 1e-6 * max(1.0, abs(reachable))
    when = int(times[np.argmax(in_use)]) if len(times) else 0
    intervals = problem.intervals
    live = np.flatnonzero((intervals[:, 0] <= when) & (when < intervals[:, 1]) & (held > 0))
    largest = live[np.argsort(-held[live], kind="stable")][:_HOLDERS]
    return Infeasibility(
        reason="memory",
        minimum_limit=reachable if proven else floor,
        proven_minimum=proven,
        reachable_limit=reachable,
        time=when,
        holders=tuple((int(n), float(held[n])) for n in largest),
    )


def _original(node: int, model: Model, lift: Lift, problem: Problem) -> int:
    """A node of the problem that the compiled model's node stands for."""
    marks = lift.up(np.arange(len(model.costs)))
    found = np.flatnonzero(marks == node)
    return int(found[0]) if len(found) else int(problem.pay_once[0].source)
