"""Parts of a step: schedules, launches, measured collectives, groups that share network cards."""

import math
from dataclasses import replace
from typing import Any

import pytest

from autoshard.cost_model import (
    Constants,
    Parallelism,
    Profile,
    StageTime,
    cluster,
    collective_time,
    device,
    estimate,
    flow_shop,
    model,
    parse_topology,
    simulate,
    stack,
    step_time,
    sweep,
    training_memory,
)
from autoshard.cost_model._meshlinks import PARTIAL_NODE, step_links
from autoshard.cost_model._step_pipeline import simulated_seconds
from autoshard.cost_model.errors import ContradictionError


def _stages(p, head=0.0):
    """Equal stages, the last one longer by `head`."""
    return tuple(StageTime(1.0 + h / 3, 2.0 + 2 * h / 3, 1.0) for h in [0.0] * (p - 1) + [head])


@pytest.mark.parametrize("head", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 16), (8, 32)])
def test_the_formula_agrees_with_the_simulation(schedule, p, m, head):
    stages = _stages(p, head)
    formula = flow_shop([s.forward_s + s.backward_s for s in stages], m)
    assert formula == pytest.approx(simulate(schedule, stages, m).seconds, rel=1e-9)


@pytest.mark.parametrize("schedule", ["zb-h1", "zb-h2", "circular"])
@pytest.mark.parametrize("head", [0.0, 0.7])
@pytest.mark.parametrize("transfer", [0.0, 0.1])
def test_a_steady_pipeline_is_extrapolated(schedule, head, transfer):
    p, m, v = 4, 40, 2 if schedule == "circular" else 1
    stages = _stages(p, head)
    whole = simulate(schedule, stages, m, chunks=v, transfer_s=transfer)
    expected = whole.span_s if schedule == "zb-h2" else whole.seconds
    assert simulated_seconds(schedule, stages, m, v, transfer) == pytest.approx(expected, rel=0.01)


def test_schedules_order_as_their_papers_say():
    def seconds(**settings: Any):
        plan = Parallelism(tp=8, pp=8, dp=2, **settings)
        found = estimate("gpt3-175b", "a100:16x8", plan, global_batch=32)
        assert sum(found.step.terms.values()) == pytest.approx(found.step_time_s)
        return found.step_time_s

    plain = seconds()
    assert seconds(schedule="gpipe") == pytest.approx(plain)
    assert seconds(schedule="zb-h2") < seconds(schedule="zb-h1") < plain
    assert seconds(schedule="circular", vpp=4) < plain
    assert seconds(vpp=4) < plain


def test_circular_pipelines_hold_every_microbatch():
    network = model("gpt3-175b")
    few, many = (
        training_memory(network, plan, stack("generic"), microbatches=32).parts["activations"]
        for plan in (
            Parallelism(tp=8, pp=8, dp=2),
            Parallelism(tp=8, pp=8, dp=2, vpp=2, schedule="circular"),
        )
    )
    assert many == pytest.approx(4 * few, rel=0.01)


def test_circular_pipelines_need_a_microbatch_per_stage():
    plan = Parallelism(tp=8, pp=8, dp=2, schedule="circular", vpp=2)
    with pytest.raises(ContradictionError, match=r"microbatches=4 and pp=8.*at least 8"):
        estimate("gpt3-175b", "a100:16x8", plan, global_batch=8)


def _profile(seconds):
    samples = [[1e3, seconds], [1e10, seconds]]
    return Profile(
        device_kind="NVIDIA H100 80GB HBM3",
        device="h100",
        devices=8,
        versions={},
        date="2026-01-01",
        constants={},
        width={},
        samples={f"{kind}@domain:8": samples for kind in ("all-gather", "reduce-scatter")},
    )


def test_measured_collectives_decide_estimate_and_sweep():
    plan = Parallelism(tp=8, sequence_parallel=True)
    settings: dict[str, Any] = {"global_batch": 1}
    slow = estimate("llama3-8b", "h100:8", plan, profile=_profile(1e-2), **settings)
    fast = estimate("llama3-8b", "h100:8", plan, profile=_profile(1e-6), **settings)
    # Two gathers and two scatters per layer forward, as many backward.
    calls = 4 * 2 * 32
    whole = slow.step.terms["tensor"] + slow.step.hidden["tensor"]
    assert whole == pytest.approx(calls * 1e-2, rel=0.5)
    assert slow.step_time_s > fast.step_time_s + 1.0
    choices: dict[str, Any] = {"global_batch": 8, "fixed": {"tp": 8}}
    ranked = [
        sweep("llama3-8b", "h100:8", profile=_profile(s), **choices).best.step.seconds
        for s in (1e-6, 1e-2)
    ]
    assert ranked[1] > 2 * ranked[0]


def test_blocking_launches_add_up_and_queued_ones_hide():
    network = model("gpt3-175b")
    place = parse_topology("a100:8x8")
    plan = Parallelism(tp=8, pp=8)
    constants = Constants(launch_s=2e-5)
    links = step_links(place, plan, constants)

    def launch(software):
        return step_time(
            network, place, plan, links, software, constants, microbatches=8, precision="bf16"
        ).terms["launch"]

    queued = stack("megatron-deepspeed")
    kernels = queued.kernels_per_layer + 6
    expected = kernels * 3 * 2e-5 * 12 * 8 * constants.derate
    assert launch(replace(queued, blocking=True)) == pytest.approx(expected)
    assert launch(queued) < 0.02 * expected


def _terms(network, place, plan, software, constants):
    links = step_links(place, plan, constants)
    return step_time(
        network, place, plan, links, software, constants, microbatches=8, precision="bf16"
    ).terms


def test_recomputation_replays_what_it_dropped():
    network, place, constants = model("llama3-70b"), parse_topology("v5p:8x8x8"), Constants()

    def found(policy):
        plan = Parallelism(dp=512, zero=3, recompute=policy)
        return _terms(network, place, plan, stack("maxtext"), constants)

    none, save_qkv, full = found("none"), found("save_qkv"), found("full")
    # One forward pass beside one of each and a backward pass that costs three.
    assert full["attention"] / none["attention"] == pytest.approx(5 / 4)
    assert save_qkv["attention"] == full["attention"]
    spared = (full["matmul"] - save_qkv["matmul"]) / (none["matmul"] / 3)
    share = network.qkv_parameters / (network.attention_parameters + network.dense_ffn_parameters)
    assert spared == pytest.approx(share, rel=0.05)
    assert none["matmul"] < found("selective")["matmul"] + 1e-12 < save_qkv["matmul"]


def test_a_vocabulary_in_shards_is_reduced():
    network, place, plan = model("gpt3-175b"), parse_topology("a100:1x8"), Parallelism(tp=8)
    software = replace(stack("megatron"), overlaps=False)
    constants = Constants(up=0.8, derate=1.0)
    slow = replace(constants, up=0.4)

    def reduce_s(given):
        bytes_ = 2 * network.seq * network.hidden
        return collective_time("all-reduce", bytes_, step_links(place, plan, given).tp)

    for term in ("head", "elementwise"):  # before the head's gradient, behind the lookup
        more = [_terms(network, place, plan, software, c)[term] for c in (constants, slow)]
        assert more[1] - more[0] == pytest.approx(8 * (reduce_s(slow) - reduce_s(constants)))


def test_groups_that_share_a_node_share_its_cards():
    constants = Constants()

    def rate(tp, devices_per_card=2):
        place = cluster(device("a100"), 8, 8, devices_per_card=devices_per_card)
        link = step_links(place, Parallelism(tp=tp, dp=64 // tp), constants).dp
        return link.segments[-1].bytes_per_s

    assert rate(1) == pytest.approx(rate(8))  # the whole node, and one device of it
    assert rate(4) / rate(8) == pytest.approx(2 ** (PARTIAL_NODE - 1))
    assert math.isclose(rate(2) / rate(8), 4 ** (PARTIAL_NODE - 1))
    assert rate(4, devices_per_card=1) == pytest.approx(rate(8))


def test_stacks_that_do_not_overlap_show_their_collectives():
    network, place = model("gpt3-175b"), parse_topology("a100:16x8")
    plan, constants = Parallelism(tp=8, pp=8, dp=2), Constants(tensor_exposed=0.5)
    links = step_links(place, plan, constants)

    def found(overlaps):
        software = replace(stack("megatron"), overlaps=overlaps)
        return step_time(
            network, place, plan, links, software, constants, microbatches=8, precision="bf16"
        )

    hiding, waiting = found(overlaps=True), found(overlaps=False)
    assert [waiting.hidden[name] for name in ("data", "tensor")] == pytest.approx([0, 0], abs=1e-12)
    for term in ("data", "tensor"):
        assert waiting.terms[term] / constants.derate > hiding.terms[term] / constants.derate > 0


def test_experts_are_sharded_over_their_own_replicas():
    network = model("mixtral-8x7b")
    software = stack("megatron")

    def optimizer(**settings: Any):
        plan = Parallelism(dp=64, zero=1, **settings)
        return training_memory(network, plan, software, microbatches=1).parts["optimizer"]

    # 64 ranks hold the state of all weights once, however the experts are spread.
    assert optimizer(ep=8) == pytest.approx(optimizer(ep=1), rel=1e-6)
    assert optimizer(ep=8) * 64 == pytest.approx(12 * network.parameters, rel=0.01)
