import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.search import (
    Problem,
    SolverOptions,
    brute_force,
    evaluate,
    explain_infeasible,
    solve,
)

INF = math.inf


def test_the_smallest_limit_and_its_holders_are_named():
    problem = Problem(
        node_costs=[[0, 9], [0, 9], [0, 9]],
        usages=[[8, 3], [9, 4], [5, 1]],
        intervals=[(0, 3), (1, 2), (5, 6)],
        usage_limit=6,
    )
    found = solve(problem)
    assert found.status == "infeasible"
    assert found.bound == INF
    why = found.infeasibility
    assert why is not None
    assert (why.reason, why.minimum_limit, why.proven_minimum) == ("memory", 7, True)
    assert (why.time, why.holders) == (1, ((1, 4.0), (0, 3.0)))
    assert str(why).startswith(
        "the smallest feasible limit is 7; at time 1 memory is held by node 1"
    )


def test_leanest_strategies_may_exclude_each_other():
    # Each node could take 1, but not both: the pair is forbidden.
    problem = Problem(
        node_costs=[[0, 0], [0, 0]],
        usages=[[5, 1], [5, 1]],
        edges=[(0, 1)],
        edge_costs=[[[0, 0], [0, INF]]],
        usage_limit=5,
    )
    why = solve(problem).infeasibility
    assert why is not None
    assert (why.minimum_limit, why.proven_minimum) == (6, True)


def test_forbidden_pairs_are_told_from_memory():
    problem = Problem(
        node_costs=[[0], [0, INF]], edges=[(0, 1)], edge_costs=[[[INF, 0]]], usage_limit=5
    )
    found = solve(problem)
    assert found.status == "infeasible"
    assert found.infeasibility is not None
    assert found.infeasibility.reason == "forbidden"
    assert "no strategy" in str(found.infeasibility)


def test_diagnosis_can_be_declined():
    problem = Problem(node_costs=[[0]], usages=[[2]], usage_limit=1)
    found = solve(problem, SolverOptions(diagnose=False))
    assert (found.status, found.infeasibility) == ("infeasible", None)


@st.composite
def crowded(draw):
    count = draw(st.integers(1, 5))
    sizes = [draw(st.integers(1, 3)) for _ in range(count)]
    numbers = lambda k: draw(st.lists(st.integers(0, 9), min_size=k, max_size=k))
    edges = draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=4))
    entry = st.sampled_from([0.0, 1.0, INF])
    return {
        "node_costs": [numbers(k) for k in sizes],
        "usages": [numbers(k) for k in sizes],
        "intervals": [(lo, lo + draw(st.integers(0, 3))) for lo in numbers(count)],
        "edges": edges,
        "edge_costs": [
            draw(st.lists(entry, min_size=n, max_size=n))
            for n in (sizes[u] * sizes[v] for u, v in edges)
        ],
        "ties": [(0, 1)] if count > 1 and sizes[0] == sizes[1] and draw(st.booleans()) else [],
    }


@given(crowded())
@settings(max_examples=150, deadline=None)
def test_the_minimum_is_the_smallest_limit_that_brute_force_accepts(fields):
    _, free = brute_force(Problem(**fields))
    why = explain_infeasible(Problem(**fields, usage_limit=0))
    if free is None:
        assert why.reason == "forbidden"
        return
    assert why.proven_minimum
    least = why.minimum_limit
    _, labels = brute_force(Problem(**fields, usage_limit=least))
    assert labels is not None
    assert evaluate(Problem(**fields), labels).peak_usage <= least
    if least > 0:
        assert brute_force(Problem(**fields, usage_limit=least - 0.5))[1] is None


def test_a_budget_sweep_is_monotone_and_ends_at_the_minimum():
    draw = np.random.default_rng(5)
    fields: dict[str, Any] = {
        "node_costs": [draw.integers(0, 50, 4) for _ in range(15)],
        "usages": [draw.integers(0, 20, 4) for _ in range(15)],
        "intervals": [(t, t + 5) for t in range(15)],
        "edges": [(t, t + 1) for t in range(14)],
        "edge_costs": [draw.integers(0, 30, (4, 4)) for _ in range(14)],
    }
    least = explain_infeasible(Problem(**fields)).minimum_limit
    costs = [solve(Problem(**fields, usage_limit=least + d)).cost for d in range(0, 60, 6)]
    assert costs == sorted(costs, reverse=True)
    assert math.isfinite(costs[0])
    assert costs[0] > costs[-1]
    assert solve(Problem(**fields, usage_limit=least - 1)).status == "infeasible"


@pytest.mark.parametrize("seconds", [1e-3])
def test_out_of_time_leaves_a_bound(seconds):
    problem = Problem(node_costs=[[0, 1]] * 3, usages=[[3, 2]] * 3, usage_limit=1)
    why = explain_infeasible(problem, seconds)
    assert why.minimum_limit <= 6
