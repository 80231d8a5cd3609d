import json
from itertools import pairwise
from typing import Any

import pytest

from autoshard.cost_model import (
    Offload,
    Parallelism,
    Profile,
    capacity_slots,
    estimate,
    expert_imbalance,
    html_report,
    sweep,
    tiers,
)
from autoshard.cost_model import device as find
from autoshard.cost_model.errors import CostModelError, InvalidFieldError, UnknownNameError

BAD_PRECISION: Any = "fp7"
FSDP = Parallelism(dp=32, zero=3, microbatch=2, recompute="full")


def test_terms_add_up():
    for topology, plan in [
        ("h100:4x8", FSDP),
        ("h100:4x8", Parallelism(tp=8, pp=2, dp=2, vpp=2, zero=1)),
        ("v5p:4x4x4", Parallelism(tp=4, dp=8, cp=2, zero=3)),
        ("v5e:4x8", Parallelism(dp=32)),
        ("cpu:8", Parallelism(dp=8)),
    ]:
        found = estimate("llama3-8b", topology, plan, global_batch=128)
        assert sum(found.step.terms.values()) == pytest.approx(found.step_time_s)
        assert min(found.step.terms.values()) >= -1e-9, found.step.terms
        assert sum(found.memory.parts.values()) == pytest.approx(found.memory.bytes)
        assert 0 < found.mfu <= found.hfu < 1
        json.dumps(found.to_dict())


def test_directions():
    base = estimate("llama3-8b", "h100:4x8", FSDP, global_batch=128)

    def other(topology="h100:4x8", batch=128, **settings):
        plan: dict[str, Any] = {
            "dp": 32,
            "zero": 3,
            "microbatch": 2,
            "recompute": "full",
            **settings,
        }
        return estimate("llama3-8b", topology, Parallelism(**plan), global_batch=batch)

    assert other(batch=256).step_time_s > 1.5 * base.step_time_s
    assert other(recompute="none").step_time_s < base.step_time_s
    assert other("a100:4x8").step_time_s > base.step_time_s
    slow = estimate("llama3-8b", "h100:4x8", FSDP, global_batch=128, constants={"out": 0.05})
    assert slow.step_time_s > base.step_time_s
    narrow = estimate("llama3-8b", "h100:4x8", FSDP, global_batch=128, precision="fp8")
    assert narrow.step_time_s < base.step_time_s


def test_tensor_parallelism_across_nodes_is_slow():
    inside = estimate("gpt3-175b", "a100:8x8", Parallelism(tp=8, pp=8), global_batch=64)
    across = estimate("gpt3-175b", "a100:8x8", Parallelism(tp=32, pp=2), global_batch=64)
    assert across.step.terms["tensor"] > 3 * inside.step.terms["tensor"]


def test_more_stages_more_bubble():
    few = estimate("gpt3-175b", "a100:16x8", Parallelism(tp=8, pp=4, dp=4), global_batch=64)
    many = estimate("gpt3-175b", "a100:16x8", Parallelism(tp=8, pp=16), global_batch=64)
    assert many.step.bubble > few.step.bubble
    zero = estimate(
        "gpt3-175b", "a100:16x8", Parallelism(tp=8, pp=16, schedule="zb-h1"), global_batch=64
    )
    assert zero.step.bubble < many.step.bubble


def test_experts_pay_all_to_alls():
    plan = Parallelism(dp=32, ep=8)
    found = estimate("mixtral-8x7b", "h100:4x8", plan, global_batch=64)
    assert found.step.terms["expert"] > 0
    assert estimate("llama3-8b", "h100:4x8", FSDP, global_batch=64).step.terms["expert"] == 0
    assert expert_imbalance(10**9, 64) == pytest.approx(1.0, abs=1e-3)
    assert expert_imbalance(64, 64) > 2
    assert capacity_slots(1000, 8, top_k=2, capacity_factor=1.0) == 250


def test_context_parallelism_splits_the_sequence():
    long: dict[str, Any] = {"global_batch": 8, "precision": "bf16"}
    one = estimate("llama3-70b", "h100:8x8", Parallelism(tp=8, dp=8, zero=3), **long)
    four = estimate("llama3-70b", "h100:8x8", Parallelism(tp=8, dp=2, cp=4, zero=3), **long)
    assert four.memory.parts["activations"] < one.memory.parts["activations"] / 3
    assert four.step.terms["context"] > 0


def test_local_updates_spread_the_exchange():
    plan = Parallelism(dp=64, recompute="full")
    each = estimate("gpt3-1.3b", "a100:8x8", plan, global_batch=64)
    rare = estimate("gpt3-1.3b", "a100:8x8", plan, global_batch=64, sync_every=500)
    assert rare.step.terms["data"] < each.step.terms["data"] / 50
    assert rare.step_time_s == pytest.approx(sum(rare.step.terms.values()))


def test_offload_trades_seconds_for_bytes():
    plan = Parallelism(dp=8)
    here = estimate("llama3-8b", "h100:8", plan, global_batch=8)
    away = estimate("llama3-8b", "h100:8", plan, global_batch=8, offload=Offload(optimizer=1.0))
    assert away.memory.bytes < here.memory.bytes - 0.9 * here.memory.parts["optimizer"]
    assert away.step_time_s > here.step_time_s
    assert away.step_time_s == pytest.approx(sum(away.step.terms.values()))
    rates = [rate for _, rate in tiers(find("h100")).values()]
    assert rates == sorted(rates, reverse=True)
    with pytest.raises(InvalidFieldError, match=r"offload.optimizer=2"):
        Offload(optimizer=2)


def test_price_and_energy():
    found = estimate("llama3-8b", "h100:8", FSDP_8, global_batch=16, dollars_per_device_hour=2.0)
    tokens = 16 * 8192
    assert found.price == pytest.approx(2.0 * 8 * found.step_time_s / 3600 / tokens * 1e6)
    assert found.energy_j == pytest.approx(700 * 8 * found.step_time_s)


FSDP_8 = Parallelism(dp=8, zero=3, recompute="full")


def test_a_profile_comes_before_fitted_constants():
    profile = Profile(
        device_kind="x",
        device="h100",
        devices=8,
        versions={},
        date="2026-01-01",
        constants={"matmul": 0.4},
        width={},
    )
    slow = estimate("llama3-8b", "h100:8", FSDP_8, global_batch=16, profile=profile)
    assert slow.step_time_s > estimate("llama3-8b", "h100:8", FSDP_8, global_batch=16).step_time_s
    assert "calibrated" in slow.notes[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate("llama3-8b", "h100:8", Parallelism(dp=4)), "8 devices"),
        (lambda: estimate("llama3-9b", "h100:8"), "Unknown model"),
        (lambda: estimate("llama3-8b", "h101:8"), "Unknown hardware"),
        (lambda: estimate("llama3-8b", "h100:8", precision=BAD_PRECISION), "precision='fp7'"),
        (lambda: estimate("llama3-8b", "a100:8", precision="fp8"), "a100 has no fp8"),
        (lambda: estimate("llama3-8b", "h100:8", stack="tf"), "Unknown stack"),
        (lambda: estimate("llama3-8b", "h100:8", constants={"speed": 1}), "constants.speed"),
        (lambda: estimate("llama3-8b", "h100:8", constants={"up": -1}), "constants.up=-1"),
        (lambda: estimate("llama3-8b", "h100:8", global_batch=4), "microbatch=1"),
        (lambda: estimate("llama3-8b", "h100:8", sync_every=0), "sync_every=0"),
        (lambda: sweep("llama3-8b", "h100:8", global_batch=0), "global_batch=0"),
        (lambda: sweep("gpt-1t", "h100:8", global_batch=8), "None of .* configurations fits"),
    ],
)
def test_bad_input_names_the_field(call, message):
    with pytest.raises((CostModelError, UnknownNameError), match=message):
        call()


def test_sweep_ranks_and_fronts():
    found = sweep("llama3-8b", "h100:2x8", global_batch=64)
    assert found.tried > 200
    seconds = [c.step.seconds for c in found.ranked]
    assert seconds == sorted(seconds)
    assert all(c.memory.fits and c.plan.devices == 16 for c in found.ranked)
    front = found.pareto()
    assert front[0] is found.best
    for one, two in pairwise(front):
        assert one.step.seconds <= two.step.seconds
        assert one.memory.bytes > two.memory.bytes
    # The sweep and the single estimate are the same function.
    alone = estimate("llama3-8b", "h100:2x8", found.best.plan, global_batch=64)
    assert alone.step_time_s == pytest.approx(found.best.step.seconds)
    fixed = sweep("llama3-8b", "h100:2x8", global_batch=64, fixed={"tp": 4})
    assert {c.plan.tp for c in fixed.ranked} == {4}


def test_report_is_self_contained():
    found = sweep("llama3-8b", "h100:8", global_batch=16)
    page = html_report(estimate("llama3-8b", "h100:8", FSDP_8, global_batch=16), found)
    assert page.count("<svg") == 3
    for outside in ("http://", "https://", "<script", "<link", "@import"):
        assert outside not in page
