from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost_model import StageTime, flow_shop, pipeline_closed_form, simulate
from autoshard.cost_model.errors import ContradictionError, InvalidFieldError

BAD_SCHEDULE: Any = "2f2b"
SIZES = [(1, 4), (2, 4), (3, 12), (4, 8), (4, 16), (8, 32)]
STAGE = StageTime(1.0, 2.0, 1.0)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
@pytest.mark.parametrize(("p", "m"), SIZES)
def test_equal_stages_equal_the_closed_form(schedule, p, m):
    found = simulate(schedule, [STAGE] * p, m)
    assert found.seconds == pipeline_closed_form(schedule, p, m, STAGE)


@pytest.mark.parametrize("schedule", ["interleaved", "circular"])
@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("v", [1, 2, 4])
def test_interleaving_divides_the_bubble(schedule, p, m, v):
    # Powers of two, so that chunks of a stage are exact.
    stage = StageTime(4.0, 8.0)
    found = simulate(schedule, [stage] * p, m, chunks=v)
    assert found.seconds == pipeline_closed_form(schedule, p, m, stage, chunks=v)


@pytest.mark.parametrize(("p", "m"), SIZES[1:])
def test_zb_h2_has_no_bubble_within_a_stage(p, m):
    found = simulate("zb-h2", [STAGE] * p, m)
    assert found.span_s == pipeline_closed_form("zb-h2", p, m, STAGE) == 3.0 * m


@pytest.mark.parametrize(
    ("schedule", "held"),
    [("gpipe", 16), ("1f1b", 4), ("zb-h1", 4), ("zb-h2", 7)],
)
def test_activations_in_flight_on_the_first_stage(schedule, held):
    assert simulate(schedule, [STAGE] * 4, 16).in_flight[0] == held


def test_interleaving_holds_more():
    # Korthikanti: 1 + (p - 1)/(p v) times as much as 1F1B; warm-up counts one chunk more.
    found = simulate("interleaved", [STAGE] * 4, 16, chunks=2)
    assert found.in_flight[0] == pytest.approx(4 * (1 + 3 / 8))


@settings(deadline=None, max_examples=40)
@given(
    stages=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda t: StageTime(*map(float, t))),
        min_size=1,
        max_size=6,
    ),
    m=st.integers(1, 12),
)
def test_unequal_stages(stages, m):
    totals = [stage.forward_s + stage.backward_s for stage in stages]
    found = simulate("gpipe", stages, m)
    # Forward and backward are each a flow shop.
    forward = flow_shop([stage.forward_s for stage in stages], m)
    backward = flow_shop([stage.backward_s for stage in stages], m)
    assert found.seconds == pytest.approx(forward + backward)
    one = simulate("1f1b", stages, m)
    assert one.seconds >= m * max(totals) - 1e-9
    assert 0 <= one.bubble < 1
    # Work is conserved whatever the order.
    busy = sum(end - start for line in one.timeline for _, start, end in line)
    assert busy == pytest.approx(m * sum(totals))


def test_transfers_lengthen_the_fill():
    alone = simulate("1f1b", [STAGE] * 4, 8)
    slow = simulate("1f1b", [STAGE] * 4, 8, transfer_s=0.5)
    assert slow.seconds > alone.seconds
    assert simulate("1f1b", [STAGE], 8, transfer_s=0.5).seconds == 24


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: simulate(BAD_SCHEDULE, [STAGE], 1), InvalidFieldError, "schedule='2f2b'"),
        (lambda: simulate("1f1b", [STAGE], 0), InvalidFieldError, "microbatches=0"),
        (lambda: simulate("1f1b", [], 4), InvalidFieldError, "stages=0"),
        (
            lambda: simulate("interleaved", [STAGE] * 4, 6, chunks=2),
            ContradictionError,
            "multiple of 4",
        ),
        (lambda: simulate("1f1b", [STAGE] * 4, 8, chunks=2), ContradictionError, "chunks=2"),
        (lambda: simulate("circular", [STAGE] * 4, 2), ContradictionError, "at least 4"),
        (lambda: StageTime(1.0, 2.0, 3.0), InvalidFieldError, "weight_s=3.0"),
        (lambda: StageTime(-1.0, 2.0), InvalidFieldError, "forward_s=-1.0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
