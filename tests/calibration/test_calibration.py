import jax
import numpy as np
import pytest

from autoshard.calibration import Samples, calibrate, fit_constants, installed_profile, measure
from autoshard.cost_model import Constants, Link, Segment, collective_time, device, profile_path
from autoshard.cost_model.errors import CostModelError


def test_the_fit_recovers_known_constants():
    gpu = device("h100")
    rng = np.random.default_rng(0)

    def noisy(seconds):
        return float(seconds * np.exp(0.03 * rng.standard_normal()))

    flops = [2.0 * n**3 for n in (256, 512, 1024, 2048, 4096, 8192)]
    sizes = [2.0**k for k in range(16, 30, 2)]
    samples = Samples(
        matmul=[(f, noisy(f / (gpu.peak("bf16") * 0.6) + 2e-5)) for f in flops],
        copy=[(b, noisy(b / (gpu.hbm_bytes_per_s * 0.7) + 1e-5)) for b in sizes],
    )
    link = Link(
        (
            Segment(
                kind="switch",
                level="domain",
                size=8,
                bytes_per_s=0.5 * 450e9,
                latency_s=4e-5,
                steps=1.0,
            ),
        )
    )
    for kind in ("all-gather", "all-reduce"):
        pairs = [(b, noisy(collective_time(kind, b, link))) for b in sizes]
        samples.collectives[kind, "x", 8] = pairs
    values, widths = fit_constants(samples, gpu, Constants())
    for name, value in {
        "matmul": 0.6,
        "ramp_s": 2e-5,
        "memory": 0.7,
        "launch_s": 1e-5,
        "up": 0.5,
        "up_latency_s": 4e-5,
    }.items():
        assert values[name] == pytest.approx(value, rel=0.15), name
        assert 0 < widths[name] < 0.5


def test_measures_every_collective_on_every_axis():
    found = measure(jax.devices()[:4], (2, 2), dtype="fp32", limit_s=6.0)
    assert found.matmul and found.copy
    assert {axis for _, axis, _ in found.collectives} == {"axis0", "axis1"}
    assert all(seconds > 0 for _, seconds in found.matmul + found.copy)


def test_calibrate_writes_what_is_then_used(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSHARD_PROFILES", str(tmp_path))
    missing, reason = installed_profile()
    assert missing is None and "autoshard calibrate" in reason
    profile = calibrate(jax.devices()[:2], limit_s=4.0)
    assert profile.device == "cpu" and profile.devices == 2
    assert {"matmul", "memory"} <= set(profile.constants)
    assert set(profile.constants) == set(profile.width)
    profile.save(profile_path(profile.device_kind, profile.versions))
    found, reason = installed_profile()
    assert found == profile, reason


def test_a_mesh_that_does_not_hold_the_devices():
    with pytest.raises(CostModelError, match=r"mesh=\(3, 2\)"):
        calibrate(jax.devices(), (3, 2))
