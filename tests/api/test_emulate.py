"""`autoshard.emulate`, in processes whose JAX has not started."""

import os
import subprocess
import sys

import pytest

CHECK = "import jax; print(len(jax.devices()), jax.devices()[0].platform)"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**clean, **environment},
        check=False,
    )


FLAG = "--xla_force_host_platform_device_count"


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        ("import autoshard; autoshard.emulate(6)", {}),
        ("import jax, autoshard; autoshard.emulate(6)", {}),
        ("import autoshard; autoshard.emulate(6); autoshard.emulate(6)", {}),
        ("import jax, autoshard; autoshard.emulate(3); autoshard.emulate(6)", {}),
        (f"import autoshard; autoshard.emulate(6); {CHECK}; autoshard.emulate(6)", {}),
        ("import autoshard; autoshard.emulate(6)", {"XLA_FLAGS": f"{FLAG}=2"}),
        ("import jax, autoshard; autoshard.emulate(6)", {"XLA_FLAGS": f"{FLAG}=2"}),
        ("import autoshard; autoshard.emulate(6)", {"JAX_PLATFORMS": "tpu"}),
    ],
    ids=[
        "before jax",
        "after jax",
        "twice",
        "another number",
        "after start",
        "flag",
        "flag after jax",
        "platform",
    ],
)
def test_devices(code, environment):
    done = run(f"{code}; {CHECK}", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "6 cpu"


def test_other_flags_stay():
    code = "import os, autoshard; autoshard.emulate(2); print(os.environ['XLA_FLAGS'])"
    done = run(code, XLA_FLAGS=f"--xla_cpu_enable_fast_math=false {FLAG}=5")
    assert done.stdout.split() == ["--xla_cpu_enable_fast_math=false", f"{FLAG}=2"]


def test_too_late():
    done = run(f"{CHECK}; import autoshard; autoshard.emulate(6)")
    assert done.returncode == 1
    last = done.stderr.split("EmulationError: ")[-1]
    assert "JAX has already started with 1 cpu device(s)" in last
    assert "Mend it: call autoshard.emulate(6) at the top" in last
