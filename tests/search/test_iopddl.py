import gzip
import json
import math

import numpy as np
import pytest

from autoshard.search import (
    OverlapTerm,
    PayOnceGroup,
    Problem,
    ProblemError,
    ProblemFormatError,
    evaluate,
    read_iopddl,
    write_iopddl,
)

DOCUMENT = {
    "problem": {
        "name": "toy",
        "nodes": {
            "intervals": [[0, 3], [1, 5]],
            "costs": [[15, 55, 1000000000000000000], [40, 45]],
            "usages": [[10, 25, 1], [30, 5]],
        },
        "edges": {"nodes": [[0, 1]], "costs": [[1, 2, 3, 1000000000000000000, 5, 6]]},
        "usage_limit": 50,
    }
}


def test_reads_the_contest_format(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(DOCUMENT))
    problem = read_iopddl(path)
    assert problem.name == "toy"
    assert problem.usage_limit == 50
    assert problem.node_costs[0].tolist() == [15, 55, math.inf]
    assert problem.edge_costs[0].tolist() == [[1, 2], [3, math.inf], [5, 6]]
    assert evaluate(problem, [0, 1]).cost == 15 + 45 + 2


def test_everything_survives_a_round_trip(tmp_path):
    problem = Problem(
        node_costs=[[0.5, math.inf], [1, 2], [3, 4]],
        usages=[[1, 2], [3, 4], [5, 6.5]],
        intervals=[(0, 2), (1, 1), (0, 9)],
        edges=[(0, 1), (2, 2)],
        edge_costs=[[1, math.inf, 0, 2], [0, 1, 2, 3]],
        ties=[(0, 1)],
        node_multiplicity=[1, 2, 3],
        edge_multiplicity=[1, 5],
        pay_once=[
            PayOnceGroup(source=0, consumers=[1], wants=[[0, -1]], costs=[[1.5], [math.inf]])
        ],
        overlaps=[
            OverlapTerm(
                node_terms={1: [1, -1]}, edge_terms={0: np.ones((2, 2))}, offset=-1, weight=2
            )
        ],
        name="all of it",
    )
    first, second = tmp_path / "a.json.gz", tmp_path / "b.json.gz"
    write_iopddl(problem, first)
    again = read_iopddl(first)
    write_iopddl(again, second)
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()).startswith(b'{"problem":')
    for labels in np.ndindex(2, 2, 2):
        a, b = evaluate(problem, np.array(labels)), evaluate(again, np.array(labels))
        assert a == b


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "the key 'problem' is missing"),
        ('{"problem": {"nodes": {}}}', "the key 'edges' is missing"),
        (json.dumps(DOCUMENT).replace("15", '"x"'), "wrong type"),
        (json.dumps(DOCUMENT).replace("[[0, 3], [1, 5]]", "[[0, 3, 1]]"), "wrong type"),
        ("[]", "wrong type"),
    ],
)
def test_other_files_are_refused(tmp_path, text, says):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ProblemFormatError, match=says) as caught:
        read_iopddl(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_cut_file_is_refused(tmp_path):
    with pytest.raises(ProblemFormatError, match="cannot be read"):
        read_iopddl(tmp_path / "none.json")
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(json.dumps(DOCUMENT).encode())[:-20])
    with pytest.raises(ProblemFormatError, match="cannot be read"):
        read_iopddl(cut)


def test_a_broken_problem_in_a_good_file_is_a_problem_error(tmp_path):
    path = tmp_path / "neg.json"
    path.write_text(json.dumps(DOCUMENT).replace("25", "-25"))
    with pytest.raises(ProblemError, match=r"usages\[0\]: -25"):
        read_iopddl(path)
