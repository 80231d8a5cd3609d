"""Every test runs on eight emulated devices."""

import difflib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEVICES = 8

# Before jax is imported. Processes that tests start inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f),
        f"--xla_force_host_platform_device_count={DEVICES}",
        # Compiling is most of what tests do, what they compile is small: a quarter less time.
        "--xla_backend_optimization_level=0",
    ]
)

import jax  # noqa: E402

# `jax_numpy_dtype_promotion=strict` would be the other half: optax's AdamW does not run under it (a
# float to the power of an int32 count).
jax.config.update("jax_numpy_rank_promotion", "raise")

assert len(jax.devices()) == DEVICES, f"tests need {DEVICES} CPU devices, got {jax.devices()}"

MANY_MAPS = 30_000
"""Of the 65,530 memory maps that Linux gives a process. XLA dies of a lack of them while it
compiles, and every compiled program keeps hundreds."""


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """Let go of compiled programs before there are too many, as when all slow tests run."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden instead of comparing"
    )


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Callable[[str, str], None]:
    """Compare a text with `tests/golden/<name>`, by default a .txt; `--update-golden` writes it."""

    def check(name: str, text: str) -> None:
        name = name if name.endswith(".json") else f"{name}.txt"
        path = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if pytestconfig.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        if text != expected:
            diff = difflib.unified_diff(
                expected.splitlines(),
                text.splitlines(),
                fromfile=f"tests/golden/{name}",
                tofile="now",
                lineterm="",
            )
            pytest.fail(
                "\n".join([*diff, "", "If this is what you want: pytest --update-golden"]),
                pytrace=False,
            )

    return check
