import pytest

from autoshard.cost_model.errors import CostModelError
from autoshard.cost_model.fit import read_run, read_runs
from autoshard.cost_model.fit._rows import network_bytes_per_s

# Korthikanti et al. (arXiv:2205.05198), table 5: the 175 B model on 64 A100, full recomputation.
ROW = {
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
