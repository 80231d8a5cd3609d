"""Seconds of single operations: roofline with shape efficiency.

    t_c = F / (P e q),  t_m = B / (W e_w),  t = t_c + t_m - kappa min(t_c, t_m) + t_0

`q` is what tiles and alignment lose, `kappa` how well memory traffic hides behind arithmetic
(XLA's GPU cost model uses 0.95), `t_0` the ramp of one kernel. Written as (F + F_0)/(P e), the
ramp is the affine saturation of Calculon-style efficiency tables.
"""

import math
from dataclasses import dataclass

from ._constants import Constants
from ._hardware import Device
from ._measured import TimeTable

# XLA `gpu_performance_model_base`: share of the shorter of compute and memory time that overlaps.
KAPPA = 0.95
# Share of a ragged last wave of tiles that shows: libraries pick other tiles or split the
# contraction where it would cost most. 0.3 to 0.5 are best over all published GPU runs.
WAVE_SHARE = 0.4

# Share of tensor-core throughput by alignment in elements of 16 bits (NVIDIA "Matrix
# Multiplication Background": 128 bytes is best on A100, 16 bytes the least for the fast path).
# The values at 8 and 32 follow BigScience's pair of widths: 14400 over 8 devices, in multiples of 8
# and 32 elements, ran at 94 TFLOP/s where 13824, in multiples of 64, ran at 120.
_ALIGNMENT = ((64, 1.0), (32, 0.88), (16, 0.8), (8, 0.62), (4, 0.4), (2, 0.3), (1, 0.25))


def alignment(size: int) -> float:
    """Throughput share of a GPU matrix product whose row length is `size` elements."""
    for granule, share in _ALIGNMENT:
        if size % granule == 0:
            return share
    return 0.25


def padding(size: int, tile: int) -> float:
    """Work done over work wanted when `size` is rounded up to `tile` (MXU, tensor-core tiles)."""
    return math.ceil(size / tile) * tile / size


def waves(m: int, n: int, tile: tuple[int, int], cores: int) -> float:
    """Wave quantization: time over the ideal when output tiles fill the cores unevenly.

    Args:
        m: rows of the result.
        n: columns of the result.
        tile: rows and columns that one core computes.
        cores: cores.

    Returns:
        At least 1. Source: NVIDIA "Matrix Multiplication Background User's Guide".
    """
    if cores < 1:
        return 1.0
    tiles = math.ceil(m / tile[0]) * math.ceil(n / tile[1])
    return math.ceil(tiles / cores) * cores / tiles


def shape_efficiency(device: Device, m: int, n: int, k: int) -> float:
    """Share of peak left by tiles and alignment for an (m, k) x (k, n) product.

    A GPU pads the result to tiles and wants k and n aligned; a TPU pads k and n to the systolic
    array (128, from v6e on 256) and m to the 8 rows of a register.
    """
    if device.kind == "tpu":
        rows, edge = device.tile
        return 1.0 / (padding(m, rows) * padding(n, edge) * padding(k, edge))
    if device.kind == "gpu":
        return min(alignment(n), alignment(k)) / padding(m, 8)
    return 1.0


@dataclass(frozen=True, slots=True)
class OpTime:
    """Seconds of one operation with its two roofline arms.

    Attributes:
        seconds: the whole.
        compute_s: arithmetic alone.
        memory_s: HBM traffic alone.
    """

    seconds: float
    compute_s: float
    memory_s: float

    @property
    def bound(self) -> str:
        """Which arm is the longer one: "compute" or "memory"."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


def roofline(compute_s: float, memory_s: float, kappa: float = KAPPA) -> float:
    """Combine the two arms: kappa 1 is the ideal roofline (max), 0 no overlap (sum)."""
    return compute_s + memory_s - kappa * min(compute_s, memory_s)


def matmul(
    device: Device,
    constants: Constants,
    m: int,
    n: int,
    k: int,
    *,
    batch: int = 1,
    dtype: str = "bf16",
    itemsize: int = 2,
    table: TimeTable | None = None,
) -> OpTime:
    """A batched matrix product, (batch, m, k) x (batch, k, n).

    Args:
        device: where.
        constants: achieved shares.
        m: rows.
        n: columns.
        k: contracted size.
        batch: number of products.
        dtype: arithmetic.
        itemsize: bytes per element moved.
        table: measured seconds by FLOPs, overrides the formula.

    Returns:
        Time with its arms.
    """
    flops = 2.0 * batch * m * n * k
    if table is not None:
        seconds = table(flops)
        return OpTime(seconds, seconds, 0.0)
    peak = device.peak(dtype) * constants.matmul
    if dtype in ("fp8", "int8", "fp4"):
        peak *= constants.low_precision
    compute = flops / (peak * shape_efficiency(device, m, n, k))
    if device.kind == "gpu":
        compute *= 1.0 + WAVE_SHARE * (waves(m, n * batch, (128, 256), device.cores) - 1.0)
    moved = itemsize * batch * (m * k + k * n + m * n)
    memory = moved / (device.hbm_bytes_per_s * constants.memory)
    return OpTime(roofline(compute, memory) + constants.ramp_s, compute, memory)


def elementwise(
    device: Device, constants: Constants, moved_bytes: float, flops: float = 0.0
) -> OpTime:
    """A streaming kernel: bytes read plus written, and a few FLOPs on the vector unit.

    Args:
        device: where.
        constants: achieved shares.
        moved_bytes: bytes read and written.
        flops: arithmetic in float32.
    """
    memory = moved_bytes / (device.hbm_bytes_per_s * constants.memory)
    compute = flops / device.peak_flops.get("fp32", device.peak("bf16") / 16)
    return OpTime(roofline(compute, memory) + constants.launch_s, compute, memory)


def gather(device: Device, constants: Constants, rows: int, row_bytes: int) -> OpTime:
    """Gather or scatter of rows: short rows cost a whole 64-byte transaction each.

    Args:
        device: where.
        constants: achieved shares.
        rows: number of rows.
        row_bytes: bytes of one row.
    """
    moved = 2.0 * rows * math.ceil(row_bytes / 64) * 64
    return elementwise(device, constants, moved)


def convolution(
    device: Device,
    constants: Constants,
    *,
    batch: int,
    out_spatial: int,
    in_channels: int,
    out_channels: int,
    window: int,
    groups: int = 1,
    dtype: str = "bf16",
    itemsize: int = 2,
) -> OpTime:
    """A convolution as the implicit matrix product that accelerators run.

    Args:
        device: where.
        constants: achieved shares.
        batch: images.
        out_spatial: output positions per image.
        in_channels: input channels.
        out_channels: output channels.
        window: positions of the filter, e.g. 9 for 3 x 3.
        groups: feature groups.
        dtype: arithmetic.
        itemsize: bytes per element.

    Returns:
        Time with its arms: m = batch x positions, n = out / groups, k = window x in / groups.
    """
    time = matmul(
        device,
        constants,
        batch * out_spatial,
        out_channels // groups,
        window * in_channels // groups,
        batch=groups,
        dtype=dtype,
        itemsize=itemsize,
    )
    # The implicit product reads each input once, not once per window position.
    moved = itemsize * (
        batch * out_spatial * (in_channels + out_channels)
        + window * in_channels * out_channels // groups
    )
    memory = moved / (device.hbm_bytes_per_s * constants.memory)
    return OpTime(roofline(time.compute_s, memory) + constants.ramp_s, time.compute_s, memory)


def attention(
    device: Device,
    constants: Constants,
    *,
    batch: int,
    queries: int,
    keys: float,
    heads: int,
    head_dim: int,
    flash: bool = True,
    itemsize: int = 2,
) -> OpTime:
    """The attention core: scores, softmax, weighted sum.

    Without a flash kernel the score matrix passes through HBM about five times in 16 bits
    (Korthikanti et al., arXiv:2205.05198, section 4.1: scores, softmax, dropout mask and output),
    and a head width that is no multiple of 8 leaves the tensor cores.

    Args:
        device: where.
        constants: achieved shares.
        batch: sequences.
        queries: queries per sequence.
        keys: keys that one query meets; half the sequence for causal flash kernels.
        heads: query heads.
        head_dim: width of a head.
        flash: whether scores stay on chip.
        itemsize: bytes per element.
    """
    flops = 4.0 * batch * queries * keys * heads * head_dim
    share = constants.attention
    if device.kind == "gpu" and head_dim % 8:
        share *= 0.08 if not flash else 0.5
    elif device.kind == "tpu":
        share /= padding(head_dim, device.tile[1])
    compute = flops / (device.peak("bf16") * share)
    moved = itemsize * 4.0 * batch * queries * heads * head_dim
    if not flash:
        moved += 5.0 * itemsize * batch * heads * queries * keys
    memory = moved / (device.hbm_bytes_per_s * constants.memory)
    return OpTime(roofline(compute, memory) + constants.ramp_s, compute, memory)
