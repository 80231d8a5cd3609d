"""Each reduction on a graph made for it, by hand."""

import math

import numpy as np
import pytest

from autoshard.search import OverlapTerm, PayOnceGroup, Problem
from autoshard.search._compile import compile_problem
from autoshard.search.presolve import (
    REDUCTIONS,
    NoLabellingError,
    components,
    presolve,
)

INF = math.inf
SWAP = [[INF, 0], [0, INF]]
RANDOM = np.random.default_rng(0)


def compiled(**fields):
    return compile_problem(Problem(**fields))[0]


def table(*shape):
    return RANDOM.integers(0, 100, shape).astype(float)


def test_arc_consistency_spreads_along_a_chain():
    # Node 0 loses strategy 1, so every later node loses one strategy too.
    model = compiled(
        node_costs=[[0, INF], *[[1, 2]] * 5],
        edges=[(i, i + 1) for i in range(5)],
        edge_costs=[SWAP] * 5,
    )
    reduced = presolve(model, ()).model
    assert reduced.sizes.tolist() == [1] * 6
    assert [c[0] for c in reduced.costs] == [0, 2, 1, 2, 1, 2]


def test_arc_consistency_reports_a_contradiction():
    model = compiled(
        node_costs=[[0, 0], [0, 0]], edges=[(0, 1)], edge_costs=[[[INF, INF], [INF, INF]]]
    )
    with pytest.raises(NoLabellingError):
        presolve(model)


def test_a_chain_of_bijections_becomes_one_node():
    costs = [table(2) for _ in range(6)]
    model = compiled(
        node_costs=costs,
        usages=[[1, 2]] * 6,
        intervals=[(i, i + 1) for i in range(6)],
        edges=[(i, i + 1) for i in range(5)],
        edge_costs=[SWAP] * 5,
        usage_limit=1.5,
    )
    reduced = presolve(model, ("followers",))
    assert len(reduced.model.costs) == 1
    expected = sum(c if i % 2 == 0 else c[::-1] for i, c in enumerate(costs))
    np.testing.assert_array_equal(reduced.model.costs[0], expected)
    assert reduced.up(np.array([1])).tolist() == [1, 0, 1, 0, 1, 0]
    # The root's memory lives on in every interval of its followers.
    assert reduced.model.usage.load(np.array([0])).tolist() == [1, 2, 1, 2, 1, 2]
    assert reduced.down(np.array([1, 0, 1, 0, 1, 0])).tolist() == [1]


def test_contradicting_followers_lose_their_strategies():
    # Around the triangle an odd number of swaps forbids everything.
    model = compiled(node_costs=[[0, 0]] * 3, edges=[(0, 1), (1, 2), (2, 0)], edge_costs=[SWAP] * 3)
    with pytest.raises(NoLabellingError):
        presolve(model, ("followers",))


def test_many_to_one_followers_follow_the_larger_node():
    model = compiled(
        node_costs=[[0, 1, 2], [10, 20]],
        edges=[(0, 1)],
        edge_costs=[[[0, INF], [INF, 5], [7, INF]]],
    )
    reduced = presolve(model, ("followers",))
    assert [c.tolist() for c in reduced.model.costs] == [[10, 26, 19]]
    assert reduced.up(np.array([1])).tolist() == [1, 1]


def test_a_partial_edge_is_not_a_function():
    matrix = [[0, 0, INF], [INF, 0, 0], [0, INF, 0]]
    model = compiled(node_costs=[[0, 1, 2]] * 2, edges=[(0, 1)], edge_costs=[matrix])
    assert len(presolve(model, ("followers",)).model.costs) == 2


def rows_of(limit, usages, intervals, **fields):
    model = compiled(
        node_costs=[[0] * len(u) for u in usages],
        usages=usages,
        intervals=intervals,
        usage_limit=limit,
        **fields,
    )
    return model.usage.rows, presolve(model, ("rows",)).model.usage


def test_only_maximal_live_sets_stay():
    # Node 0 spans everything; nodes 1 and 2 overlap in [3, 4); node 3 comes alone later.
    before, usage = rows_of(5, [[1, 3]] * 4, [(0, 9), (1, 4), (3, 6), (7, 8)])
    assert before == 7
    assert usage.times.tolist() == [3, 7]
    assert usage.capacity.tolist() == [5 - 3, 5 - 2]


def test_rows_that_cannot_bind_go():
    _, usage = rows_of(100, [[1, 3]] * 4, [(0, 9), (1, 4), (3, 6), (7, 8)])
    assert usage.rows == 0


def test_constant_memory_is_taken_off_the_capacity():
    _, usage = rows_of(10, [[4, 4], [1, 9]], [(0, 2), (0, 2)])
    assert usage.capacity.tolist() == [10 - 4 - 1]
    assert [v.tolist() for v in usage.vectors] == [[0, 8]]


def test_of_equal_rows_one_stays():
    # Node 1 is constant, so once it is gone the rows before and after its start are the same.
    _, usage = rows_of(2, [[0, 3], [0, 0]], [(0, 4), (2, 4)])
    assert usage.rows == 1


def test_fixed_nodes_and_separable_edges_fold():
    separable = np.array([[1.0], [4.0]]) + np.array([[0.0, 2.0, 5.0]])
    coupled = np.array([[0, 5], [5, 0]])
    model = compiled(
        node_costs=[[7], [0, 1], [0, 0, 0], [1, 1]],
        edges=[(0, 1), (1, 2), (1, 3)],
        edge_costs=[[[3, 4]], separable, coupled],
    )
    reduced = presolve(model, ("fixed",))
    assert reduced.model.constant == 7
    assert [c.tolist() for c in reduced.model.costs] == [[4, 9], [0, 2, 5], [1, 1]]
    assert len(reduced.model.edge_nodes) == 1
    for labels in np.ndindex(2, 3, 2):
        up = reduced.up(np.array(labels))
        assert model.evaluate(up) == reduced.model.evaluate(np.array(labels))


def test_dominated_strategies_go_and_one_of_equals_stays():
    model = compiled(
        node_costs=[[0, 9, 0, 3], [0, 1]],
        edges=[(0, 1)],
        edge_costs=[[[0, 5], [0, 5], [0, 5], [5, 0]]],
    )
    reduced = presolve(model, ("dominance",))
    assert reduced.lifts[0].up(np.array([0, 0])).tolist() == [0, 0]
    first = reduced.lifts[0]
    assert first.name == "dominance"
    # Strategies 1 (dearer) and 2 (equal) go; 3 costs more but may save on the edge.
    assert {tuple(first.up(np.array([s, 0]))) for s in (0, 1)} == {(0, 0), (3, 0)}


def test_leaner_memory_is_not_dominated():
    model = compiled(node_costs=[[0, 9]], usages=[[5, 1]], intervals=[(0, 1)], usage_limit=3)
    assert presolve(model, ("dominance",)).model.sizes.tolist() == [2]


def test_a_cycle_is_eliminated_to_one_node():
    count = 8
    model = compiled(
        node_costs=[table(4) for _ in range(count)],
        edges=[(i, (i + 1) % count) for i in range(count)],
        edge_costs=[table(4, 4) for _ in range(count)],
    )
    reduced = presolve(model, ("elimination",))
    assert len(reduced.model.costs) == 1
    choice = np.array([int(np.argmin(reduced.model.costs[0]))])
    labels = reduced.up(choice)
    assert model.evaluate(labels) == reduced.model.evaluate(choice)
    # No single change improves what back-substitution found.
    for node in range(count):
        for s in range(4):
            other = labels.copy()
            other[node] = s
            assert model.evaluate(other) >= model.evaluate(labels)


def test_nodes_that_resources_hold_are_not_eliminated():
    fields = {"node_costs": [[0, 1], [0, 1]], "edges": [(0, 1)], "edge_costs": [[[0, 5], [5, 0]]]}
    memory = {"usages": [[2, 0], [0, 0]], "usage_limit": 1}
    assert len(presolve(compiled(**fields, **memory), ("elimination",)).model.costs) == 1
    hinge = OverlapTerm(node_terms={0: [1, 0], 1: [0, 1]})
    kept = presolve(compiled(**fields, overlaps=[hinge]), ("elimination",)).model
    assert len(kept.costs) == 2


def test_components_share_nothing():
    model = compiled(
        node_costs=[[0, 1]] * 6,
        edges=[(0, 1), (4, 5)],
        edge_costs=[SWAP, SWAP],
        usages=[[1, 2]] * 6,
        # Nodes 1 and 2 meet in time, 3 does not meet them, 4 and 5 are tied by their edge.
        intervals=[(0, 0), (0, 2), (1, 3), (3, 5), (6, 7), (0, 0)],
        usage_limit=3,
    )
    parts = components(model)
    assert [nodes.tolist() for nodes, _ in parts] == [[0, 1, 2], [3], [4, 5]]
    assert sum(len(p.usage.vectors) for _, p in parts) == 4
    # Nobody is live in [5, 6), so that row belongs to no part.
    assert [p.usage.times.tolist() for _, p in parts] == [[0, 1, 2], [3], [6]]


def test_pay_once_helpers_cost_what_the_group_costs():
    group = PayOnceGroup(
        source=0, consumers=[1, 2, 3], wants=[[0, 1], [0, -1], [2, 0]], costs=table(3, 3)
    )
    problem = Problem(node_costs=[[0] * 3, [0] * 2, [0] * 2, [0] * 2], pay_once=[group])
    model, lift = compile_problem(problem)
    for labels in np.ndindex(3, 2, 2, 2):
        lowered = lift.down(np.array(labels))
        assert model.evaluate(lowered) == group.cost(np.array(labels))
        assert lift.up(lowered).tolist() == list(labels)


@pytest.mark.parametrize("enabled", [*((name,) for name in REDUCTIONS), tuple(REDUCTIONS)])
def test_costs_and_memory_survive_the_way_up(enabled):
    sizes = RANDOM.integers(1, 4, 12)
    edges = [(i, int(RANDOM.integers(0, i))) for i in range(1, 12)] + [(0, 5), (3, 9), (2, 11)]
    model = compiled(
        node_costs=[table(k) for k in sizes],
        edges=edges,
        edge_costs=[table(sizes[u], sizes[v]) for u, v in edges],
        usages=[table(k) for k in sizes],
        intervals=[(t, t + 4) for t in range(12)],
        usage_limit=150,
        overlaps=[
            OverlapTerm(
                node_terms={4: table(sizes[4]) - 50},
                edge_terms={2: table(sizes[3], sizes[edges[2][1]]) - 40},
            )
        ],
    )
    reduced = presolve(model, enabled)
    for _ in range(20):
        labels = np.array([RANDOM.integers(0, k) for k in reduced.model.sizes])
        up = reduced.up(labels)
        assert model.evaluate(up) == pytest.approx(reduced.model.evaluate(labels))
        assert model.fits(up) == reduced.model.fits(labels)
