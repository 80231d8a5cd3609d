from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost_model import (
    Constants,
    TimeTable,
    attention,
    convolution,
    device,
    elementwise,
    gather,
    matmul,
    roofline,
    shape_efficiency,
    waves,
)

IDEAL = Constants(matmul=1.0, memory=1.0, attention=1.0, ramp_s=1e-15, launch_s=1e-15)


def test_roofline_between_max_and_sum():
    assert roofline(3.0, 1.0, kappa=1.0) == 3.0
    assert roofline(3.0, 1.0, kappa=0.0) == 4.0
    assert roofline(3.0, 1.0) == pytest.approx(3.05)


def test_a_large_product_runs_at_peak():
    tpu = device("v5e")
    time = matmul(tpu, IDEAL, 8192, 8192, 8192)
    assert time.bound == "compute"
    assert time.compute_s == pytest.approx(2 * 8192**3 / 197e12)
    thin = matmul(tpu, IDEAL, 8, 8192, 8192)
    assert thin.bound == "memory"


def test_padding_to_the_systolic_array():
    assert shape_efficiency(device("v5e"), 128, 128, 128) == 1.0
    assert shape_efficiency(device("v5e"), 128, 64, 128) == 0.5
    # v6e is 256 wide.
    assert shape_efficiency(device("v6e"), 256, 128, 256) == 0.5


def test_alignment_on_gpus():
    a100 = device("a100")
    assert shape_efficiency(a100, 1024, 1728, 13824) == 1.0
    assert shape_efficiency(a100, 1024, 1800, 14400) < 0.8


def test_wave_quantization():
    assert waves(128 * 108, 256, (128, 256), 108) == 1.0
    assert waves(128 * 109, 256, (128, 256), 108) == pytest.approx(2 * 108 / 109)


@given(m=st.integers(1, 4096), n=st.integers(1, 4096), k=st.integers(1, 4096))
def test_never_faster_than_the_roofline(m, n, k):
    for name in ("h100", "v5p"):
        time = matmul(device(name), IDEAL, m, n, k)
        assert time.seconds >= 2 * m * n * k / device(name).peak("bf16") * (1 - 1e-9)


def test_measured_table_overrides():
    table = TimeTable.from_samples([(1e9, 1e-3), (1e12, 1.0)])
    time = matmul(device("h100"), IDEAL, 1000, 1000, 500, table=table)
    assert time.seconds == pytest.approx(1e-3)


def test_flash_attention_spares_the_score_matrix():
    shape: dict[str, Any] = {
        "batch": 1,
        "queries": 4096,
        "keys": 4096,
        "heads": 32,
        "head_dim": 128,
    }
    flash = attention(device("a100"), IDEAL, **shape)
    plain = attention(device("a100"), IDEAL, **shape, flash=False)
    assert flash.compute_s == plain.compute_s == pytest.approx(4 * 4096**2 * 32 * 128 / 312e12)
    assert plain.memory_s > 10 * flash.memory_s


def test_odd_heads_leave_the_tensor_cores():
    shape: dict[str, Any] = {"batch": 1, "queries": 2048, "keys": 2048, "heads": 16, "flash": False}
    odd = attention(device("a100"), IDEAL, head_dim=108, **shape)
    even = attention(device("a100"), IDEAL, head_dim=112, **shape)
    assert odd.seconds > 3 * even.seconds


def test_convolution_is_an_implicit_product():
    time = convolution(
        device("v5e"),
        IDEAL,
        batch=32,
        out_spatial=3136,
        in_channels=256,
        out_channels=256,
        window=9,
    )
    assert time.compute_s == pytest.approx(2 * 32 * 3136 * 256 * 256 * 9 / 197e12)


def test_streams_and_gathers():
    v5e = device("v5e")
    assert elementwise(v5e, IDEAL, 819e6).seconds == pytest.approx(1e-3)
    # A row of four bytes costs a whole transaction.
    assert gather(v5e, IDEAL, 1000, 4).memory_s == gather(v5e, IDEAL, 1000, 64).memory_s


@pytest.mark.parametrize(("name", "idle"), [("v5e", 1), ("v5p", 1), ("v6e", 2), ("tpu7x", 2)])
def test_a_wide_systolic_array_wants_wide_heads(name, idle):
    chip = device(name)
    shape: dict[str, Any] = {"batch": 4, "queries": 2048, "keys": 2048.0}
    narrow = attention(chip, IDEAL, **shape, heads=16, head_dim=128).compute_s
    wide = attention(chip, IDEAL, **shape, heads=8, head_dim=256).compute_s
    assert narrow == pytest.approx(idle * wide)
