import pytest

from autoshard import models
from autoshard.cli._overrides import match_types, parse_overrides
from autoshard.errors import UsageError


def test_values_are_literals_or_text():
    assignments = "layers=6 dropout=1e-1 scan_layers=True tie_head=false dtype=bfloat16"
    assignments += " blocks=(2,2) rope_scaling=None remat=full"
    assert parse_overrides(assignments.split()) == {
        "layers": 6,
        "dropout": 0.1,
        "scan_layers": True,
        "tie_head": False,
        "dtype": "bfloat16",
        "blocks": (2, 2),
        "rope_scaling": None,
        "remat": "full",
    }


def test_a_field_is_set_once():
    with pytest.raises(UsageError, match="gives 'layers' twice"):
        parse_overrides(["layers=1", "layers=2"])


def test_integers_become_floats_where_fields_are_floats():
    values = match_types({"dropout": 0, "layers": 2, "dtype": "float16"}, models.GPT2Config())
    assert values == {"dropout": 0.0, "layers": 2, "dtype": "float16"}
    assert type(values["dropout"]) is float


@pytest.mark.parametrize(
    "values", [{"layers": 2.0}, {"layers": True}, {"scan_layers": 1}, {"dropout": "0.1x"}]
)
def test_other_types_are_refused(values):
    with pytest.raises(UsageError, match="is of type"):
        match_types(values, models.GPT2Config())


def test_values_that_no_command_line_can_write_are_refused():
    with pytest.raises(UsageError, match="rope_scaling is no plain value"):
        match_types({"rope_scaling": "x"}, models.LlamaConfig())
