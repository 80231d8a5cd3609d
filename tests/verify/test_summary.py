"""Sums over collectives, and their table."""

from typing import Any

import pytest

from autoshard.errors import HloLoopError
from autoshard.verify import Collective, Total, format_table, summarize, traffic_by_axes


def collective(**changes: Any) -> Collective:
    fields: dict[str, Any] = {
        "kind": "all-reduce",
        "axes": ("data",),
        "group_size": 2,
        "operand_bytes": 1000,
        "result_bytes": 1000,
        "scalar_bytes": 0,
        "sliced_bytes": 0,
        "n_operands": 1,
        "dtypes": ("f32",),
        "count": 3,
        "conditional": False,
        "is_async": False,
        "op_name": "jit(f)/dot_general",
        "source_file": "",
        "source_line": 0,
        "name": "all-reduce.1",
        "computation": "main",
    }
    return Collective(**{**fields, **changes})


FOUND = (
    collective(),
    collective(operand_bytes=500, result_bytes=500, sliced_bytes=500, count=2),
    collective(operand_bytes=4, result_bytes=4, scalar_bytes=4, count=1, axes=("data", "model")),
    collective(
        kind="all-gather", axes=("model",), group_size=4, operand_bytes=100, result_bytes=400
    ),
)
UNKNOWN = collective(count=None, kind="all-gather", name="all-gather.9", conditional=True)


def test_summarize() -> None:
    assert summarize(FOUND) == {
        ("all-gather", ("model",)): Total(
            sites=1, count=3, operand_bytes=300, result_bytes=1200, traffic_bytes=900
        ),
        ("all-reduce", ("data",)): Total(
            sites=2, count=5, operand_bytes=4000, result_bytes=4000, traffic_bytes=4000
        ),
        ("all-reduce", ("data", "model")): Total(
            sites=1, count=1, operand_bytes=4, result_bytes=4, traffic_bytes=4
        ),
    }
    assert list(summarize(FOUND, scalars=False)) == [
        ("all-gather", ("model",)),
        ("all-reduce", ("data",)),
    ]


def test_summarize_by_what_is_meant() -> None:
    logical = summarize(FOUND, scalars=False, logical=True)
    assert logical["reduce-scatter", ("data",)].count == 2
    assert logical["reduce-scatter", ("data",)].traffic_bytes == 1000  # still the all-reduce's
    assert logical["all-reduce", ("data",)].count == 3


def test_unknown_count_stays_unknown() -> None:
    total = summarize([*FOUND, UNKNOWN])["all-gather", ("data",)]
    assert (total.sites, total.count, total.traffic_bytes) == (1, None, None)


def test_traffic_by_axes() -> None:
    assert traffic_by_axes(FOUND) == {("data",): 4000, ("data", "model"): 4, ("model",): 900}
    with pytest.raises(HloLoopError) as raised:
        traffic_by_axes([*FOUND, UNKNOWN])
    assert str(raised.value) == (
        "%all-gather.9 (jit(f)/dot_general) runs in a loop whose trip count depends on data.\n"
        "Mend it: traffic_by_axes(found, unknown_count=1)"
    )
    assert traffic_by_axes([UNKNOWN], unknown_count=10) == {("data",): 5000}


def test_table() -> None:
    big = collective(axes=(), operand_bytes=3 * 2**30, result_bytes=3 * 2**30, count=1)
    assert format_table([*FOUND, UNKNOWN, big]) == "\n".join(
        [
            "collective  axes        sites  runs  operands  results  traffic",
            "all-gather  data            1     ?         ?        ?        ?",
            "all-gather  model           1     3     300 B  1.2 KiB    900 B",
            "all-reduce  -               1     1   3.0 GiB  3.0 GiB  3.0 GiB",
            "all-reduce  data            2     5   3.9 KiB  3.9 KiB  3.9 KiB",
            "all-reduce  data,model      1     1       4 B      4 B      4 B",
            "? = in a loop whose trip count the text does not determine",
            "branches of conditionals are counted as if all were taken",
        ]
    )
    assert "data,model" not in format_table(FOUND, scalars=False)
    assert len(format_table([]).splitlines()) == 1
