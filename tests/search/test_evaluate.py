"""The referee: costs and violations computed by hand."""

import dataclasses
import math

import numpy as np
import pytest

from autoshard.search import (
    OverlapTerm,
    PayOnceGroup,
    Problem,
    ProblemError,
    Solution,
    SolverOptions,
    brute_force,
    evaluate,
    referee,
    solve,
    usage_over_time,
    validate,
)

PROBLEM = Problem(
    node_costs=[[1, 2], [10, math.inf], [100, 200]],
    usages=[[5, 1], [7, 0], [2, 9]],
    intervals=[(0, 4), (2, 6), (6, 6)],
    edges=[(0, 1), (1, 0), (2, 2)],
    edge_costs=[[0.5, 0, math.inf, 0], [0.25, 0, 0, 0], [3, 0, 0, 4]],
    usage_limit=10,
    node_multiplicity=[2, 1, 1],
    edge_multiplicity=[4, 1, 1],
    pay_once=[
        PayOnceGroup(source=0, consumers=[1, 2], wants=[[0, 1], [0, -1]], costs=[[8, 9], [6, 7]])
    ],
    overlaps=[OverlapTerm(node_terms={2: [5, 1]}, edge_terms={0: [[-3, 0], [0, 0]]}, weight=0.5)],
)


def test_costs_by_kind():
    found = evaluate(PROBLEM, [0, 0, 0])
    assert found.node_cost == 2 * 1 + 10 + 100
    assert found.edge_cost == 4 * 0.5 + 0.25 + 3  # parallel edges add up, a loop costs its diagonal
    assert found.pay_once_cost == 8  # both consumers want class 0: paid once
    assert found.overlap_cost == 0.5 * (5 - 3)
    assert found.cost == 112 + 5.25 + 8 + 1


def test_hidden_communication_is_free():
    assert evaluate(PROBLEM, [0, 0, 1]).overlap_cost == 0


def test_memory_peaks_where_intervals_meet_and_ends_are_open():
    found = evaluate(PROBLEM, [0, 0, 0])
    assert (found.peak_usage, found.peak_time) == (12, 2)
    assert not found.feasible
    assert "memory 12 at time 2 is above the limit 10" in found.violations[0]
    times, in_use = usage_over_time(PROBLEM, [5, 7, 2])
    assert times.tolist() == [0, 2, 4, 6]
    assert in_use.tolist() == [5, 12, 7, 0]  # node 2 is never live


def test_forbidden_choices_are_listed():
    found = evaluate(PROBLEM, [1, 1, 0])
    assert found.cost == math.inf
    assert found.violations == ("node 1 takes strategy 1, which is forbidden",)
    found = evaluate(PROBLEM, [1, 0, 0])
    assert found.violations == ("edge 0 between nodes [0, 1] takes the forbidden pair [1, 0]",)
    with pytest.raises(ProblemError, match="not feasible: edge 0"):
        validate(PROBLEM, [1, 0, 0])


def test_ties_are_checked():
    tied = Problem(node_costs=[[0, 0], [0, 0]], ties=[(0, 1)])
    assert "tied nodes (0, 1)" in evaluate(tied, [0, 1]).violations[0]
    validate(tied, [1, 1])


@pytest.mark.parametrize("labels", [[0, 0], [0, 0, 2], [0, 0, -1], [0.0, 0.0, 0.0]])
def test_labels_must_be_strategies(labels):
    with pytest.raises(ProblemError, match="labels"):
        evaluate(PROBLEM, labels)


def test_brute_force_refuses_what_it_cannot_enumerate():
    with pytest.raises(ProblemError, match="1048576 labellings"):
        brute_force(Problem(node_costs=[[0, 0]] * 20), max_labellings=1000)


def lying(**changes):
    def solver(problem, options=None, *, warm_starts=()):
        return dataclasses.replace(solve(problem, options), **changes)

    return solver


def test_referee_accepts_an_honest_solver():
    problem = Problem(node_costs=[[3, 1]])
    assert referee(solve, problem).cost == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cost": 0.0}, "claims cost 0.0, but costs 1.0"),
        ({"bound": 2.0}, "above the cost"),
        ({"labels": None}, "without labels"),
        ({"labels": np.array([0])}, "claims cost 1.0, but costs 3.0"),
        ({"labels": np.array([2])}, "not feasible: node 0"),
    ],
)
def test_referee_catches_false_claims(changes, says):
    problem = Problem(node_costs=[[3, 1, math.inf]])
    with pytest.raises(ProblemError, match=says):
        referee(lying(**changes), problem)


def test_referee_minds_the_clock():
    def slow(problem, options=None, *, warm_starts=()):
        import time

        time.sleep(1.2)
        return Solution(status="feasible", labels=np.array([0]), cost=3.0, bound=0.0, seconds=0.0)

    with pytest.raises(ProblemError, match="took"):
        referee(slow, Problem(node_costs=[[3]]), SolverOptions(time_limit_s=0.1))
