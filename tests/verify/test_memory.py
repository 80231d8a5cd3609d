"""Memory of compiled programs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from autoshard.errors import MemoryStatsError
from autoshard.verify import memory


def test_temporaries_count(mesh_2x4: Mesh, struct) -> None:
    def f(x):
        return jnp.sum(jnp.sort(x @ x.T, axis=0)[0])

    x = struct(mesh_2x4, (256, 64))
    found = memory(jax.jit(f).lower(x).compile())
    assert found.argument_bytes == 256 * 64 * 4
    assert found.output_bytes == 4
    assert found.alias_bytes == 0
    assert found.temp_bytes >= 256 * 256 * 4
    assert found.peak_bytes == found.argument_bytes + found.output_bytes + found.temp_bytes


def test_per_device(mesh_2x4: Mesh, struct) -> None:
    x = struct(mesh_2x4, (256, 64), "data", "model")
    found = memory(jax.jit(jnp.tanh).lower(x).compile())
    assert found.argument_bytes == found.output_bytes == 256 * 64 * 4 // 8


def test_donated_bytes_count_once(mesh_2x4: Mesh, struct) -> None:
    x = struct(mesh_2x4, (256, 64), "data", None)
    found = memory(jax.jit(lambda x: x + 1.0, donate_argnums=0).lower(x).compile())
    assert found.alias_bytes == found.argument_bytes == 128 * 64 * 4
    assert found.peak_bytes == found.argument_bytes + found.temp_bytes


class Compiled(SimpleNamespace):
    """A program for a platform that is not here."""

    def __init__(self, platform: str, stats: object) -> None:
        device = SimpleNamespace(platform=platform)
        super().__init__(
            input_shardings=((SimpleNamespace(device_set={device.platform: device}.values()),), {}),
            output_shardings=None,
            memory_analysis=lambda: stats,
        )


STATS = SimpleNamespace(
    argument_size_in_bytes=100,
    output_size_in_bytes=60,
    alias_size_in_bytes=50,
    temp_size_in_bytes=30,
    generated_code_size_in_bytes=7,
    peak_memory_in_bytes=135,
)


@pytest.mark.parametrize(("platform", "peak"), [("cpu", 140), ("tpu", 135), ("cuda", 135)])
def test_peak(platform: str, peak: int) -> None:
    found = memory(Compiled(platform, STATS))
    assert (found.peak_bytes, found.code_bytes) == (peak, 7)


def test_no_stats() -> None:
    with pytest.raises(MemoryStatsError, match="the cuda backend reports no memory analysis"):
        memory(Compiled("cuda", None))
