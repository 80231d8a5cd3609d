from typing import Any

import pytest

from autoshard.cost_model.errors import CostModelError
from autoshard.cost_model.fit import read_run, read_runs, summarize, with_shipped
from autoshard.cost_model.fit._lightest import admissible, lightest_plan
from autoshard.cost_model.fit._words import devices_per_card, network_bytes_per_s

# Korthikanti et al. (arXiv:2205.05198), table 5: the 175 B model on 64 A100, full recomputation.
ROW: dict[str, Any] = {
    "id": "row-1",
    "group": "korthikanti22",
    "source": {"title": "Korthikanti et al. table 5"},
    "model": {
        "name": "GPT-175B",
        "layers": 96,
        "hidden": 12288,
        "heads": 96,
        "ffn": 49152,
        "gated_ffn": False,
        "vocab": 51200,
        "seq": 2048,
    },
    "hardware": {
        "accel": "A100-80GB-SXM",
        "devices_per_node": 8,
        "inter_node": "8x HDR200 IB (Selene)",
    },
    "n_devices": 64,
    "global_batch": 64,
    "microbatch": 1,
    "parallel": {"tp": 8, "pp": 8, "dp": 1, "vpp": 3, "sp": True},
    "schedule": "interleaved 1f1b",
    "recompute": "selective",
    "precision": "fp16",
    "measured": {"step_time_s": 13.75},
}


def test_reads_a_row():
    run = read_run(ROW)
    assert run.topology.device.name == "a100"
    assert run.topology.devices == 64
    assert run.stack.name == "megatron"
    plan = run.plan
    assert (plan.tp, plan.pp, plan.vpp, plan.sequence_parallel) == (8, 8, 3, True)
    assert plan.recompute == "selective"


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("full", "full"),
        ("layer-wise remat", "full"),
        ("selective op", "selective"),
        ("minimal_flash", "selective"),
        ("qkv_proj_offloaded", "save_qkv"),
        ("custom: offload decoder_layer_input,q,k,v(,out_proj)", "save_qkv"),
        (None, "none"),
    ],
)
def test_reads_recomputation(text, policy):
    assert read_run({**ROW, "recompute": text}).plan.recompute == policy


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("8x HDR200 IB (Selene)", 25e9),
        ("4x Omni-Path 100 (JeanZay)", 6.25e9),
        ("800 Gb/s per node per config files (4xHDR200)", 12.5e9),
        ("1600 Gb/s/node RoCE", 25e9),
        ("RDMA 400Gb/s/GPU", 50e9),
        ("8x200 Gbps RoCE", 25e9),
        ("AWS p3.16xlarge 25 Gb/s", 25e9 / 64),
        ("InfiniBand", None),
        (None, None),
    ],
)
def test_reads_networks(text, rate):
    assert network_bytes_per_s(text, 8) == (pytest.approx(rate) if rate else None)


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("8x HDR200 IB (Selene)", 1),
        ("4x Omni-Path 100 (JeanZay)", 2),
        ("800 Gb/s per node per config files (4xHDR200)", 2),
        ("16x NDR", 1),
        ("0x HDR", 8),
        ("RDMA 400Gb/s/GPU", 1),
        (None, 1),
    ],
)
def test_reads_how_many_devices_share_a_card(text, shared):
    assert devices_per_card(text, 8) == shared


def test_open_degrees_take_their_best_value():
    row = {**ROW, "microbatch": None}
    run = read_run(row)
    assert "microbatch" in run.free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"name": "x"}}, "model.hidden"),
        ({"global_batch": None}, "global_batch"),
        ({"hardware": {"accel": "Abacus"}}, "Unknown hardware 'Abacus'"),
    ],
)
def test_rows_that_say_too_little(change, message):
    with pytest.raises(CostModelError, match=message):
        read_run({**ROW, **change})
    runs, left_out = read_runs([ROW, {**ROW, "id": "bad", **change}])
    assert len(runs) == 1 and set(left_out) == {"bad"}


def test_a_mutilated_file_says_what_it_could_not_predict():
    def broken(name, **changes):
        return {**ROW, "id": name, **changes}

    rows: list[Any] = [
        ROW,
        broken("no-measurement", measured=None),
        broken("no-model", model={"name": "X"}),
        broken("odd-device", hardware={"accel": "Quantum Q1"}),
        broken("text-for-number", n_devices="sixty-four"),
        broken("no-arithmetic", precision="fp8"),
        broken("no-batch", global_batch=None),
        broken("odd-name", model={**ROW["model"], "name": "Never Heard Of It"}, group="elsewhere"),
        {key: value for key, value in ROW.items() if key not in ("id", "source")},
        {key: value for key, value in ROW.items() if key != "parallel"},
        "not a row",
    ]
    runs, left_out = read_runs(rows)
    assert [run.id for run in runs] == ["row-1", "odd-name", "row 8"]
    assert set(left_out) == {
        "no-measurement",
        "no-model",
        "odd-device",
        "text-for-number",
        "no-arithmetic",
        "no-batch",
        "row-1",
        "row 10",
    }
    assert "Quantum Q1" in left_out["odd-device"]
    assert "fp8" in left_out["no-arithmetic"]
    assert "parallel" in left_out["row-1"]
    assert len(with_shipped(runs)) == 3
    assert with_shipped([]) == []
    assert summarize([])["rows"] == 0


def test_settings_that_a_report_leaves_open_are_judged_lightly():
    stated = read_run({**ROW, "parallel": {**ROW["parallel"], "zero": 1}})
    assert stated.light is None
    vague = read_run({**ROW, "recompute": "recipe-dependent (unknown)"})
    assert vague.light is not None and vague.light.plan.recompute == "full"
    offloaded = read_run({**ROW, "recompute": "custom: offload layer inputs"})
    constants = offloaded.stack.memory
    plain = offloaded.predict_memory(constants)
    light = offloaded.predict_memory(constants, light=True)
    assert light.parts["activations"] < plain.parts["activations"] / 4
    assert sum(light.parts.values()) == pytest.approx(light.bytes)


def test_a_planner_is_judged_by_its_lightest_plan():
    open_plan = {"tp": None, "pp": None, "dp": None}
    run = read_run({**ROW, "parallel": open_plan, "schedule": "parax.auto"})
    assert run.plan_unknown
    found = lightest_plan(run, run.stack.memory)
    assert found is not None and found.fits
    pipeline = read_run({**ROW, "parallel": open_plan, "schedule": "parax.inter_only"})
    assert all(plan.tp == 1 and plan.zero == 0 for plan in admissible(pipeline))
    heavier = lightest_plan(pipeline, run.stack.memory)
    assert heavier is not None and heavier.bytes > found.bytes


def test_jax_reports_count_sequences_per_chip():
    """Of 1024 sequences on 1024 chips a replica of 16 chips runs its 16 at once."""
    hardware = {"accel": "TPUv5e", "slices": 4}
    parallel = {"tp": 16, "pp": 1, "dp": 64, "cp": 1, "zero": 3, "fsdp": 16}
    changes = {"hardware": hardware, "n_devices": 1024, "global_batch": 1024, "parallel": parallel}
    run = read_run({**ROW, **changes, "schedule": None, "precision": "bf16", "microbatch": 1})
    assert run.plan.microbatch == 16
    assert run.global_batch == run.plan.dp * run.plan.microbatch
