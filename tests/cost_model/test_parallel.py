import pytest

from autoshard.cost_model import Parallelism, model
from autoshard.cost_model.errors import (
    ContradictionError,
    DegreesMismatchError,
    InvalidFieldError,
)

LLAMA = model("llama3-8b")


def test_degrees_must_multiply():
    with pytest.raises(DegreesMismatchError, match=r"= 4, but there are 8 devices. Set dp=4"):
        Parallelism(tp=2, dp=2).check(LLAMA, 8, 8)
    with pytest.raises(DegreesMismatchError, match="tp x pp x cp must divide 8"):
        Parallelism(tp=3).check(LLAMA, 8, 8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tp": 0}, InvalidFieldError, "tp=0"),
        ({"microbatch": -1}, InvalidFieldError, "microbatch=-1"),
        ({"zero": 4}, InvalidFieldError, "zero=4.*0, 1, 2, 3"),
        (
            {"recompute": "some"},
            InvalidFieldError,
            "recompute='some'.*save_qkv, full",
        ),
        ({"vpp": 2}, ContradictionError, "vpp=2 and pp=1"),
        ({"pp": 2, "schedule": "interleaved"}, ContradictionError, "Set vpp to 2"),
        ({"pp": 2, "vpp": 2, "schedule": "gpipe"}, ContradictionError, "gpipe"),
        ({"fsdp": 4, "dp": 8}, ContradictionError, "Set zero=3"),
        ({"fsdp": 3, "dp": 8, "zero": 3}, InvalidFieldError, "fsdp=3"),
        ({"ep": 3, "dp": 8}, InvalidFieldError, "ep=3"),
    ],
)
def test_contradictions(settings, error, message):
    with pytest.raises(error, match=message):
        Parallelism(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tp": 64}, "tp=64.*a divisor of heads=32"),
        ({"pp": 64}, "pp=64.*up to layers=32"),
        ({"dp": 64, "ep": 8}, "ep=8 and experts=0"),
        ({"dp": 64, "microbatch": 4}, "microbatch=4.*up to global_batch / dp = 1"),
    ],
)
def test_against_the_model(settings, message):
    with pytest.raises((InvalidFieldError, ContradictionError), match=message):
        Parallelism(**settings).check(LLAMA, 64, 64)


def test_microbatches_round_up():
    assert Parallelism(dp=8, microbatch=2).check(LLAMA, 8, 64) == 4
    assert Parallelism(dp=8, microbatch=3).check(LLAMA, 8, 64) == 3
