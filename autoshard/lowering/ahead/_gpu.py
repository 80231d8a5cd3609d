"""What XLA's GPU compiler has to know of a GPU that is not there.

It takes a `GpuTargetConfigProto` as text. The numbers of a chip that do not come from the hardware
catalog are those of its architecture, from NVIDIA's tuning guides and the table of compute
capabilities in the CUDA C++ Programming Guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoshard.cost_model import device
from autoshard.errors import TopologyError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """Limits that all GPUs of one compute capability share.

    Args:
        capability: Compute capability.
        shared_memory_per_core: Bytes of shared memory of a multiprocessor.
        threads_per_core: Threads that a multiprocessor holds.
        lanes: FP32 lanes of a multiprocessor.
    """

    capability: tuple[int, int]
    shared_memory_per_core: int
    threads_per_core: int
    lanes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chip:
    """A GPU.

    Args:
        architecture: Its architecture.
        name: What the driver calls it.
        l2_bytes: Its level 2 cache.
        clock_ghz: Its highest clock.
    """

    architecture: _Architecture
    name: str
    l2_bytes: int
    clock_ghz: float


_AMPERE = _Architecture(
    capability=(8, 0), shared_memory_per_core=164 * 1024, threads_per_core=2048, lanes=64
)
_HOPPER = _Architecture(
    capability=(9, 0), shared_memory_per_core=228 * 1024, threads_per_core=2048, lanes=128
)

CHIPS = {
    "a100": _Chip(
        architecture=_AMPERE, name="NVIDIA A100-SXM4-80GB", l2_bytes=40 * 2**20, clock_ghz=1.41
    ),
    "a100-40": _Chip(
        architecture=_AMPERE, name="NVIDIA A100-SXM4-40GB", l2_bytes=40 * 2**20, clock_ghz=1.41
    ),
    "h100": _Chip(
        architecture=_HOPPER, name="NVIDIA H100 80GB HBM3", l2_bytes=50 * 2**20, clock_ghz=1.98
    ),
    "h200": _Chip(architecture=_HOPPER, name="NVIDIA H200", l2_bytes=50 * 2**20, clock_ghz=1.98),
}
"""GPUs by their name in the hardware catalog."""


def target_config(chip: str) -> str:
    """The compiler's description of a GPU.

    Args:
        chip: Its name in the hardware catalog.

    Returns:
        A `GpuTargetConfigProto` in text form.

    Raises:
        TopologyError: There is no description of this chip.
    """
    if chip not in CHIPS:
        raise TopologyError(
            chip,
            f"no compiler here knows this chip; ahead of time there are {', '.join(CHIPS)}",
            f"--chip {chip} judges a plan against its memory without compiling",
        )
    found, catalog = CHIPS[chip], device(chip)
    architecture = found.architecture
    reserved = 1024  # of the shared memory of each multiprocessor, by the system for every block
    major, minor = architecture.capability
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": architecture.shared_memory_per_core,
        "shared_memory_per_block_optin": architecture.shared_memory_per_core - reserved,
        "threads_per_core_limit": architecture.threads_per_core,
        "core_count": catalog.cores,
        "fpus_per_core": architecture.lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(catalog.hbm_bytes_per_s),
        "l2_cache_size": found.l2_bytes,
        "clock_rate_ghz": found.clock_ghz,
        "device_memory_size": int(catalog.hbm_bytes),
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    lines = "\n".join(f"  {name}: {value}" for name, value in info.items())
    return (
        f"gpu_device_info {{\n{lines}\n"
        f"  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 8 patch: 0 }\n"
        "runtime_version { major: 12 minor: 9 patch: 0 }\n"
        f'device_description_str: "{found.name}"\n'
    )
