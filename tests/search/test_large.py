"""The solver on graphs too large for brute force, and its contract as an anytime method."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from autoshard.search import (
    MemoryBudgetError,
    OverlapTerm,
    Problem,
    ProblemError,
    SolverOptions,
    evaluate,
    explain_infeasible,
    referee,
    solve,
)


def layered(layers, width=4, strategies=5, seed=0, limit=0.08, forbid=0.0, **extra):
    """A graph like a training step: layers in time, residual edges, parameters that live long."""
    draw = np.random.default_rng(seed)
    count = layers * width
    sizes = draw.integers(2, strategies + 1, count)
    edges, matrices = [], []
    for node in range(width, count):
        layer = node // width
        sources = {(layer - 1) * width + int(draw.integers(width)), node - width}
        for source in sorted(sources):
            edges.append((source, node))
            matrix = draw.integers(0, 1000, (sizes[source], sizes[node])).astype(float)
            holes = draw.random(matrix.shape) < forbid
            holes[np.arange(sizes[source]), np.arange(sizes[source]) % sizes[node]] = False
            holes[np.arange(sizes[node]) % sizes[source], np.arange(sizes[node])] = False
            matrix[holes] = np.inf
            matrices.append(matrix)
    ends = [layers if n % width == 0 else n // width + 2 for n in range(count)]
    usages = [np.sort(draw.integers(1, 100, k))[::-1].astype(float) for k in sizes]
    fields: dict[str, Any] = {
        "node_costs": [np.sort(draw.integers(0, 500, k)).astype(float) for k in sizes],
        "usages": usages,
        "intervals": [(n // width, e) for n, e in enumerate(ends)],
        "edges": edges,
        "edge_costs": matrices,
    }
    floor = explain_infeasible(Problem(**fields)).minimum_limit
    room = limit * sum(float(u.max()) for u in usages)
    return Problem(**fields, usage_limit=floor + room, **extra)


@pytest.mark.parametrize("seed", range(3))
def test_large_and_exact_agree(seed):
    problem = layered(7, seed=seed)
    proven = referee(solve, problem, SolverOptions(method="exact"))
    assert proven.status == "optimal"
    found = referee(solve, problem, SolverOptions(method="large"))
    assert found.bound <= proven.cost + 1e-6
    assert proven.cost <= found.cost <= 1.02 * proven.cost
    assert found.bound >= 0.8 * proven.cost


def test_large_with_forbidden_pairs_and_overlap():
    term = OverlapTerm(node_terms={0: np.array([300.0, -300.0, 100.0, 0.0, 50.0])[:2]}, offset=10.0)
    problem = layered(10, seed=3, strategies=2, forbid=0.4, overlaps=[term])
    proven = referee(solve, problem, SolverOptions(method="exact"))
    found = referee(solve, problem, SolverOptions(method="large"))
    assert proven.status == "optimal"
    assert found.bound <= proven.cost + 1e-6
    assert found.cost <= 1.05 * proven.cost + 1


def test_the_answer_is_a_function_of_problem_and_seed():
    problem = layered(6, seed=4)
    options = SolverOptions(method="large", seed=7)
    first, second = solve(problem, options), solve(problem, options)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.cost, first.bound) == (second.cost, second.bound)
    assert first.memory_prices == second.memory_prices


def test_progress_only_ever_improves():
    seen = []
    problem = layered(6, seed=5)
    found = solve(problem, SolverOptions(method="large", progress=seen.append))
    assert {p.phase for p in seen} >= {"presolve", "messages"}
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))
    costs = [p.cost for p in seen]
    bounds = [p.bound for p in seen]
    assert costs == sorted(costs, reverse=True)
    assert bounds == sorted(bounds)
    assert costs[-1] == pytest.approx(found.cost)
    assert bounds[-1] <= found.bound + 1e-6


@pytest.mark.parametrize("method", ["auto", "exact", "large"])
@pytest.mark.parametrize("seconds", [0.01, 1.0])
def test_a_time_limit_is_kept(method, seconds):
    problem = layered(60, seed=6)
    # Lenient, because other processes may hold the machine: the clock is asked in every loop.
    found = solve(problem, SolverOptions(method=method, time_limit_s=seconds, diagnose=False))
    assert found.seconds < seconds + 3.0
    assert found.bound <= found.cost
    if found.labels is not None:
        assert evaluate(problem, found.labels).feasible


def test_a_gap_may_be_enough():
    problem = layered(6, seed=1)
    found = referee(solve, problem, SolverOptions(gap=0.5, method="large"))
    assert found.status == "optimal"
    assert found.gap <= 0.5


def test_the_best_warm_start_is_kept_and_improved():
    problem = layered(6, seed=2)
    good = solve(problem, SolverOptions(method="large"))
    assert good.labels is not None
    poor = np.array([len(c) - 1 for c in problem.node_costs])  # the leanest of every node
    assert evaluate(problem, poor).feasible
    options = SolverOptions(method="large", time_limit_s=0.05)
    again = solve(problem, options, warm_starts=[poor, good.labels])
    assert again.cost <= good.cost
    assert solve(problem, warm_starts=[poor]).cost < evaluate(problem, poor).cost


def test_a_bad_warm_start_is_refused():
    with pytest.raises(ProblemError, match="strategy 9"):
        solve(Problem(node_costs=[[0, 1]]), warm_starts=[[9]])


def test_memory_has_a_price_where_it_binds():
    # One unit more memory lets one more node save 10.
    fields: dict[str, Any] = {"node_costs": [[0, 10]] * 4, "usages": [[1, 0]] * 4}
    found = solve(Problem(**fields, usage_limit=2), SolverOptions(method="exact"))
    assert found.cost == 20
    assert dict(found.memory_prices)[0] == pytest.approx(10)
    assert solve(Problem(**fields, usage_limit=4)).memory_prices == ()


def test_memory_of_the_solver_is_bounded():
    problem = layered(6, seed=1)
    with pytest.raises(MemoryBudgetError, match="memory_limit_bytes=") as caught:
        solve(problem, SolverOptions(memory_limit_bytes=1000))
    enough = caught.value.needed_bytes
    found = solve(problem, SolverOptions(memory_limit_bytes=enough))
    assert found.labels is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"time_limit_s": 0.0},
        {"gap": -1.0},
        {"gap": math.nan},
        {"method": "magic"},
        {"reductions": ("none",)},
        {"memory_limit_bytes": 0},
    ],
)
def test_options_are_checked(fields):
    with pytest.raises(ProblemError):
        SolverOptions(**fields)
