import math
from typing import Any

import numpy as np
import pytest

from autoshard.search import OverlapTerm, PayOnceGroup, Problem, ProblemError

TWO = [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"node_costs": []}, "no nodes"),
        ({"node_costs": [[]]}, r"node_costs\[0\]: a node without strategies"),
        ({"node_costs": [[1.0], [math.nan]]}, r"node_costs\[1\]: holds nan"),
        ({"node_costs": [[-math.inf]]}, "holds -inf"),
        ({"node_costs": [["x"]]}, "not a vector of numbers"),
        ({"node_costs": [[[1.0]]]}, "not one number per strategy"),
        ({"node_costs": TWO, "usages": [[0.0, 1.0]]}, "1 vectors for 2 nodes"),
        (
            {"node_costs": TWO, "usages": [[0, 1], [0]]},
            r"usages\[1\]: 1 entries but .* 2 strategies",
        ),
        ({"node_costs": TWO, "usages": [[0, 1], [0, -1]]}, r"usages\[1\]: -1.0 is not"),
        ({"node_costs": TWO, "usages": [[0, math.inf], [0, 0]]}, r"usages\[0\]: inf is not"),
        ({"node_costs": TWO, "intervals": [[0, 1]]}, "shape"),
        ({"node_costs": TWO, "intervals": [[0.5, 1], [0, 1]]}, "float64"),
        ({"node_costs": TWO, "intervals": [[0, 1], [3, 2]]}, r"intervals\[1\]: lo > hi"),
        ({"node_costs": TWO, "edges": [(0, 2)], "edge_costs": [[0.0]]}, "outside 0..1"),
        ({"node_costs": TWO, "edges": [0, 1], "edge_costs": [[0], [0]]}, "integer"),
        ({"node_costs": TWO, "edges": [(0, 1)]}, "0 matrices for 1 edges"),
        ({"node_costs": TWO, "edges": [(0, 1)], "edge_costs": [[[0, 1], [2]]]}, "ragged"),
        ({"node_costs": TWO, "edges": [(0, 1)], "edge_costs": [[0, 1, 2]]}, "have 2 and 2"),
        (
            {"node_costs": TWO, "edges": [(0, 1)], "edge_costs": [[0, 1, 2, math.nan]]},
            r"edge_costs\[0\]: holds nan",
        ),
        ({"node_costs": TWO, "usage_limit": -1}, "negative or NaN"),
        ({"node_costs": TWO, "usage_limit": math.nan}, "negative or NaN"),
        ({"node_costs": [[0], [0, 1]], "ties": [(0, 1)]}, "same number of strategies"),
        ({"node_costs": TWO, "ties": [(0, 5)]}, "must exist"),
        ({"node_costs": TWO, "node_multiplicity": [1]}, "needs 2 finite numbers"),
        ({"node_costs": TWO, "node_multiplicity": [1, 0]}, "needs 2 finite numbers > 0"),
        ({"node_costs": TWO, "overlaps": [OverlapTerm(node_terms={7: [1, 1]})]}, "node 7"),
        ({"node_costs": TWO, "overlaps": [OverlapTerm(edge_terms={0: [[1]]})]}, "edge 0"),
    ],
)
def test_broken_invariants_are_named(fields, says):
    with pytest.raises(ProblemError, match=says):
        Problem(**fields)


def group(**changes):
    fields: dict[str, Any] = {
        "source": 0,
        "consumers": [1],
        "wants": [[0, -1]],
        "costs": [[1.0], [2.0]],
    }
    return PayOnceGroup(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"costs": [1.0, 2.0]}, "shape"),
        ({"costs": [[-1.0], [2.0]]}, "negative"),
        ({"wants": []}, "0 vectors for 1 consumers"),
        ({"consumers": [0]}, "hold the source"),
        ({"wants": [[0, 1]]}, "outside -1..0"),
    ],
)
def test_broken_groups_are_named(changes, says):
    with pytest.raises(ProblemError, match=says):
        group(**changes)


def test_groups_must_fit_their_nodes():
    with pytest.raises(ProblemError, match="node 1 does not have 2 strategies"):
        Problem(node_costs=[[0, 0], [0, 0, 0]], pay_once=[group()])


@pytest.mark.parametrize(
    "term", [{"weight": 0.0}, {"offset": math.inf}, {"node_terms": {0: [math.nan]}}]
)
def test_overlap_terms_must_be_finite(term):
    with pytest.raises(ProblemError, match=r"finite|> 0"):
        OverlapTerm(**term)


def test_errors_carry_fields_and_a_line_that_mends():
    with pytest.raises(ProblemError) as caught:
        Problem(node_costs=[[0.0]], usages=[[-2.0]])
    assert (caught.value.field, caught.value.index) == ("usages", 0)
    assert "\n  mend: " in str(caught.value)


def test_flat_and_square_matrices_are_the_same():
    flat = Problem(node_costs=TWO, edges=[(0, 1)], edge_costs=[[1, 2, 3, 4]])
    square = Problem(node_costs=TWO, edges=[(0, 1)], edge_costs=[[[1, 2], [3, 4]]])
    np.testing.assert_array_equal(flat.edge_costs[0], square.edge_costs[0])


def test_an_infinite_limit_is_none():
    assert Problem(node_costs=TWO, usage_limit=math.inf).usage_limit is None


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        ({}, True),
        ({"node_multiplicity": [1.5, 1]}, False),
        ({"overlaps": [OverlapTerm()]}, False),
        ({"edges": [(0, 1)], "edge_costs": [[0, 1, math.inf, 0.5]]}, False),
    ],
)
def test_whole_costs_are_recognised(fields, whole):
    assert Problem(node_costs=TWO, **fields).integral is whole
