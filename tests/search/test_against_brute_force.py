"""Random small problems: every method must agree with trying every labelling."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoshard.search import (
    OverlapTerm,
    PayOnceGroup,
    Problem,
    SolverOptions,
    brute_force,
    evaluate,
    referee,
    solve,
)
from autoshard.search.presolve import REDUCTIONS

INF = math.inf
quiet: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@st.composite
def problems(draw, *, memory=None, terms=None):
    """A problem with at most six nodes of at most four strategies."""
    count = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    cost = st.one_of(st.integers(-3, 9), st.integers(0, 9), st.just(INF))
    finite = st.integers(0, 6)

    def table(entry, *shape):
        cells = math.prod(shape)
        flat = draw(st.lists(entry, min_size=cells, max_size=cells))
        return np.array(flat, float).reshape(shape)

    node = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=8))
    edge_costs = []
    for u, v in edges:
        # Bijections are what real graphs are full of, and what followers are made of.
        if sizes[u] == sizes[v] and draw(st.booleans()):
            matrix = np.full((sizes[u], sizes[v]), INF)
            for row, column in enumerate(draw(st.permutations(range(sizes[u])))):
                matrix[row, column] = draw(finite)
        else:
            matrix = table(cost, sizes[u], sizes[v])
        edge_costs.append(matrix)
    fields: dict[str, Any] = {
        "node_costs": [table(cost, k) for k in sizes],
        "edges": edges,
        "edge_costs": edge_costs,
    }
    if draw(st.booleans()) if memory is None else memory:
        span = st.tuples(st.integers(0, 4), st.integers(0, 3)).map(lambda s: (s[0], s[0] + s[1]))
        fields["usages"] = [table(finite, k) for k in sizes]
        fields["intervals"] = draw(st.lists(span, min_size=count, max_size=count))
        fields["usage_limit"] = draw(st.integers(0, 14))
    if draw(st.booleans()) if terms is None else terms:
        fields |= draw(extra_terms(sizes, edges, table))
    return Problem(**fields)


@st.composite
def extra_terms(draw, sizes, edges, table):
    count = len(sizes)
    finite = st.integers(0, 6)
    fields = {}
    same = [(u, v) for u in range(count) for v in range(u) if sizes[u] == sizes[v]]
    if same and draw(st.booleans()):
        fields["ties"] = draw(st.lists(st.sampled_from(same), max_size=2))
    if draw(st.booleans()):
        counts = st.integers(1, 3)
        fields["node_multiplicity"] = table(counts, count)
        fields["edge_multiplicity"] = table(counts, len(edges))
    if count > 1 and draw(st.booleans()):
        source, *consumers = draw(st.permutations(range(count)))
        consumers = consumers[: draw(st.integers(1, 3))]
        classes = draw(st.integers(1, 3))
        fields["pay_once"] = [
            PayOnceGroup(
                source=source,
                consumers=consumers,
                wants=[
                    table(st.integers(-1, classes - 1), sizes[c]).astype(int) for c in consumers
                ],
                costs=table(finite, sizes[source], classes),
            )
        ]
    if draw(st.booleans()):
        signed = st.integers(-6, 6)
        nodes = draw(st.sets(st.integers(0, count - 1), max_size=2))
        picked = draw(st.sets(st.integers(0, len(edges) - 1), max_size=1)) if edges else set()
        fields["overlaps"] = [
            OverlapTerm(
                node_terms={n: table(signed, sizes[n]) for n in nodes},
                edge_terms={e: table(signed, *(sizes[n] for n in edges[e])) for e in picked},
                offset=draw(signed),
                weight=draw(st.sampled_from([0.5, 1.0, 2.0])),
            )
        ]
    return fields


def check(problem, options):
    best, _ = brute_force(problem)
    found = referee(solve, problem, options)
    if best == INF:
        assert found.status == "infeasible"
        assert found.labels is None
        return
    assert found.status == "optimal"
    assert found.cost == pytest.approx(best, abs=1e-9)
    assert found.bound <= best + 1e-6
    assert found.gap == pytest.approx(0.0, abs=1e-6)


@given(problems())
@settings(max_examples=500, **quiet)
def test_default_solver_finds_the_optimum(problem):
    check(problem, SolverOptions(diagnose=False))


@given(problems(memory=True, terms=True))
@settings(max_examples=150, **quiet)
def test_optimum_with_memory_and_every_term(problem):
    check(problem, SolverOptions(diagnose=False))


@pytest.mark.parametrize("off", sorted(set(REDUCTIONS) - {"arc"}))
@given(problem=problems())
@settings(max_examples=40, **quiet)
def test_optimum_does_not_depend_on_a_reduction(off, problem):
    kept = tuple(name for name in REDUCTIONS if name != off)
    check(problem, SolverOptions(reductions=kept, diagnose=False))


@pytest.mark.parametrize("on", [(), *((name,) for name in REDUCTIONS)])
@given(problem=problems())
@settings(max_examples=40, **quiet)
def test_optimum_with_one_reduction_alone(on, problem):
    check(problem, SolverOptions(reductions=on, diagnose=False))


@given(problems())
@settings(max_examples=100, **quiet)
def test_large_method_brackets_the_optimum(problem):
    best, _ = brute_force(problem)
    # Without reductions the method sees the graph itself, not what is left of it.
    options = SolverOptions(method="large", reductions=("rows",), diagnose=False)
    found = referee(solve, problem, options)
    if best == INF:
        assert found.labels is None
        return
    assert found.bound <= best + 1e-6
    assert found.cost >= best - 1e-9
    if found.labels is not None:
        assert evaluate(problem, found.labels).feasible


@given(problems(memory=False, terms=False))
@settings(max_examples=100, **quiet)
def test_large_method_reaches_the_optimum_without_memory(problem):
    best, _ = brute_force(problem)
    found = solve(problem, SolverOptions(method="large", reductions=(), diagnose=False))
    assert found.cost == pytest.approx(best) or best == INF


@given(problems(memory=True))
@settings(max_examples=100, **quiet)
def test_warm_start_is_never_lost(problem):
    best, labels = brute_force(problem)
    if labels is None:
        return
    for method in ("exact", "large"):
        options = SolverOptions(method=method, diagnose=False)
        assert solve(problem, options, warm_starts=[labels]).cost == pytest.approx(best)
