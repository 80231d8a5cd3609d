"""Message passing and block moves, on graphs where the optimum is known."""

import itertools

import numpy as np
import pytest

from autoshard.search import Problem
from autoshard.search._compile import compile_problem
from autoshard.search.large._forest import ForestMoves
from autoshard.search.large._messages import Messages
from autoshard.search.large._table import EdgeTable


def random_model(seed, count, edges, fewest=2, most=4, forbid=0.0):
    draw = np.random.default_rng(seed)
    widths = draw.integers(fewest, most + 1, count)
    matrices = []
    for u, v in edges:
        matrix = draw.integers(0, 50, (widths[u], widths[v])).astype(float)
        # The first row and column stay, so that every strategy keeps a partner.
        matrix[1:, 1:][draw.random((widths[u] - 1, widths[v] - 1)) < forbid] = np.inf
        matrices.append(matrix)
    problem = Problem(
        node_costs=[draw.integers(0, 20, k).astype(float) for k in widths],
        edges=edges,
        edge_costs=matrices,
    )
    return compile_problem(problem)[0]


def optimum(model):
    choices = itertools.product(*(range(k) for k in model.sizes))
    return min(model.evaluate(np.array(x)) for x in choices)


TREE = [(0, 1), (1, 2), (1, 3), (3, 4), (0, 5), (5, 6), (2, 7)]
LOOPY = [*TREE, (6, 7), (4, 6), (2, 5)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("forbid", [0.0, 0.4])
def test_a_tree_is_solved_by_messages(seed, forbid):
    model = random_model(seed, 8, TREE, forbid=forbid)
    messages = Messages(model)
    bound = max(messages.sweep() for _ in range(30))
    best = optimum(model)
    assert bound == pytest.approx(best, rel=1e-6)
    assert model.evaluate(messages.round()) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("forbid", [0.0, 0.4])
def test_bounds_rise_and_stay_below_the_optimum(seed, forbid):
    model = random_model(seed, 8, LOOPY, most=3, forbid=forbid)
    messages = Messages(model)
    bounds = [messages.sweep() for _ in range(40)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(bounds))
    assert bounds[-1] <= optimum(model) + 1e-9


def test_a_graph_without_edges():
    model = random_model(0, 3, [])
    messages = Messages(model)
    assert messages.sweep() == optimum(model)
    assert model.evaluate(messages.round(backward=True)) == optimum(model)


def test_edge_costs_can_change():
    model = random_model(1, 8, TREE)
    messages = Messages(model)
    extra = np.arange(model.edge_costs[0].size, dtype=float).reshape(model.edge_costs[0].shape)
    messages.add_to_edge(tuple(model.edge_nodes[0].tolist()), extra)
    model.edge_costs[0] = model.edge_costs[0] + extra
    bound = max(messages.sweep() for _ in range(30))
    assert bound == pytest.approx(optimum(model), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_block_moves_never_lose_and_solve_trees(seed):
    draw = np.random.default_rng(seed)
    for edges in (TREE, LOOPY):
        model = random_model(seed, 8, edges, most=3)
        table = EdgeTable(model)
        moves = ForestMoves(table, seed)
        labels = draw.integers(0, model.sizes)
        costs = np.concatenate(model.costs)
        before = model.evaluate(labels)
        for _ in range(5):
            labels = moves.move(costs, labels)
            after = model.evaluate(labels)
            assert after <= before
            before = after
        if edges is TREE:
            # A tree is one forest, so one move is enough for the optimum.
            assert before == optimum(model)


def test_conditional_costs_are_single_changes():
    model = random_model(3, 8, LOOPY)
    table = EdgeTable(model)
    labels = np.zeros(8, np.int64)
    flat = table.conditional(np.concatenate(model.costs), labels)
    base = model.evaluate(labels)
    for node in range(8):
        own = flat[table.offsets[node] : table.offsets[node + 1]]
        for s in range(len(own)):
            other = labels.copy()
            other[node] = s
            assert own[s] - own[0] == pytest.approx(model.evaluate(other) - base)
