"""Seconds of one transformer layer on one device, forward and backward, by term.

The estimator calls this thousands of times in a sweep, so it is plain arithmetic on floats: the
formulas are those of `_compute`, written out for the six matrix products of a layer.
"""

import math
from dataclasses import dataclass

from ._compute import KAPPA, WAVE_SHARE, alignment
from ._constants import Constants, Stack
from ._hardware import Device
from ._parallel import Parallelism
from ._transformer import Transformer

# Host work of one layer's tensor parallelism in kernel launches: collectives with their stream
# switches, autograd functions and random-state forks.
TENSOR_LAUNCHES = 6.0
# Elements of a product's contracted dimension that its pipeline loses to prologue and epilogue.
# A training step contracts over all three sizes: forward over k, backward over n and the rows.
CONTRACTION_RAMP = 100.0
# Passes over the score matrix of an unfused attention forward: the product writes it, softmax
# reads and writes, dropout reads, writes and keeps a mask of half the width, the second product
# reads.
SCORE_PASSES = 6.5
# Row-wise traffic of the stacks without fused attention, relative to the passes counted below:
# Megatron joins bias with GeLU, and bias with dropout and residual.
JOINT_KERNELS = 0.75
# Bytes that the loss moves per logit, a third of forward and backward pass together. GPU stacks
# run it kernel by kernel: the product writes 16 bits, a cast to float32 reads 2 bytes and writes
# 4, log-softmax and its gradient read and write 4, a cast back reads 4 and writes 2. XLA fuses the
# casts and the exponentials.
UNFUSED_LOSS_BYTES = 10.0
FUSED_LOSS_BYTES = 8.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Achieved rates of one device, worked out once per estimate.

    Attributes:
        matmul: FLOP/s of dense products in the run's precision.
        matmul16: FLOP/s of dense products in 16 bits.
        attention: FLOP/s of the attention core.
        memory: bytes/s of streaming kernels.
        itemsize: bytes of an activation.
    """

    matmul: float
    matmul16: float
    attention: float
    memory: float
    itemsize: int


def rates(device: Device, constants: Constants, precision: str) -> Rates:
    """Rates of a device in one precision."""
    wide = "fp32" if precision == "fp32" else "bf16"
    base = device.peak(wide) * constants.matmul
    narrow = base
    if precision in ("fp8", "int8", "fp4"):
        narrow = device.peak(precision) * constants.matmul * constants.low_precision
    return Rates(
        matmul=narrow,
        matmul16=base,
        attention=device.peak(wide) * constants.attention,
        memory=device.hbm_bytes_per_s * constants.memory,
        itemsize=4 if precision == "fp32" else 2,
    )


@dataclass(slots=True)
class LayerTime:
    """Device seconds of one layer for one microbatch.

    Attributes:
        matmul_s: matrix products.
        attention_s: the attention core.
        elementwise_s: norms, activations, residuals, dropout.
        kernels: kernels launched.
        last_s: the part of `matmul_s` that is the last product of dense feed-forwards.
        qkv_s: the part of `matmul_s` that makes queries, keys and values.
    """

    matmul_s: float
    attention_s: float
    elementwise_s: float
    kernels: float
    last_s: float = 0.0
    qkv_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds the device computes."""
        return self.matmul_s + self.attention_s + self.elementwise_s


def _pad(size: float, tile: int) -> float:
    return -(-size // tile) * tile / size


def _ramp(*sizes: float) -> float:
    """Factor on a product's time for what short sizes lose."""
    return 1.0 + CONTRACTION_RAMP / 3.0 * sum(1.0 / size for size in sizes)


def _products(
    device: Device,
    r: Rates,
    constants: Constants,
    tokens: float,
    shapes: tuple[tuple[float, float, float], ...],
) -> float:
    """Seconds of matrix products over `tokens` rows.

    Each shape is (n, k, rows per token): experts see more or fewer rows than there are tokens.
    """
    seconds = 0.0
    tpu = device.kind == "tpu"
    for n, k, share in shapes:
        rows = tokens * share
        compute = 2.0 * rows * n * k / r.matmul
        if tpu:
            edge = device.tile[1]
            compute *= _pad(n, edge) * _pad(k, edge)
        elif device.kind == "gpu":
            compute /= min(alignment(int(n)), alignment(int(k)))
            compute *= _ramp(n, k, rows)
            if device.cores:
                # Wave quantization of the output tiles; the last wave is often not full.
                tiles = -(-rows // 256) * -(-n // 128) / device.cores
                compute *= 1.0 + WAVE_SHARE * (-(-tiles // 1) / tiles - 1.0)
        memory = r.itemsize * (rows * (n + k) + n * k) / r.memory
        seconds += compute + memory - KAPPA * min(compute, memory) + constants.ramp_s
    return seconds


def layer_forward(
    model: Transformer,
    plan: Parallelism,
    device: Device,
    stack: Stack,
    constants: Constants,
    r: Rates,
) -> LayerTime:
    """One average layer forward: dense and MoE layers weighted by their counts.

    Args:
        model: the transformer.
        plan: degrees.
        device: where.
        stack: software.
        constants: achieved shares.
        r: from `rates`.
    """
    h, tp = model.hidden, plan.tp
    tokens = plan.microbatch * model.seq / plan.cp
    share = model.moe_layers / model.layers
    width = model.heads * model.head_dim / tp
    kv = max(model.kv_heads * model.head_dim / tp, model.head_dim)
    if model.latent:
        query_rank, kv_rank, plain, rotary, value = model.latent
        a = model.heads / tp
        attention_shapes = (
            (query_rank + kv_rank + rotary, h, 1.0),
            (a * (plain + rotary), query_rank, 1.0),
            (a * (plain + value), kv_rank, 1.0),
            (h, a * value, 1.0),
        )
    else:
        attention_shapes = ((width + 2 * kv, h, 1.0), (h, width, 1.0))
    qkv = _products(device, r, constants, tokens, attention_shapes[:-1])
    matmul = qkv + _products(device, r, constants, tokens, attention_shapes[-1:])
    gates = 2 if model.gated else 1
    kernels = stack.kernels_per_layer + (TENSOR_LAUNCHES if tp > 1 else 0.0)
    ffn_rows = last = 0.0
    if share < 1:
        ffn = model.ffn / tp
        last = (1 - share) * _products(device, r, constants, tokens, ((h, ffn, 1.0),))
        first = _products(device, r, constants, tokens, ((gates * ffn, h, 1.0),))
        matmul += (1 - share) * first + last
        ffn_rows += (1 - share) * ffn
    if share > 0:
        # Each device holds experts / ep experts and, balanced, gets top_k rows per token.
        ffn = model.expert_ffn / (tp if plan.ep == 1 else 1)
        scale = 1.0 if plan.ep == 1 else 1.0 / tp
        local = max(model.experts / plan.ep, 1.0)
        rows = tokens * model.top_k * scale
        # Grouped products gain less from narrow types than dense ones: published bf16/fp8 pairs
        # of MoE models differ by about the square root of the dense gain.
        rate = math.sqrt(r.matmul * r.matmul16) * constants.experts
        if device.kind == "tpu":
            rate /= _pad(ffn, device.tile[1]) * _pad(h, device.tile[1])
        grouped = 2.0 * rows * (gates + 1) * ffn * h / rate
        weights = local * (gates + 1) * ffn * h
        moved = r.itemsize * (weights + rows * (2 * h + (gates + 1) * ffn)) / r.memory
        matmul += share * (grouped + moved - KAPPA * min(grouped, moved) + 3 * constants.ramp_s)
        if model.shared_experts:
            shared = model.shared_experts * model.expert_ffn / tp
            matmul += share * _products(
                device, r, constants, tokens, ((gates * shared, h, 1.0), (h, shared, 1.0))
            )
        # Routing, permutation and unpermutation move every routed row four times.
        ffn_rows += share * (model.top_k * scale * (ffn + h) + model.shared_experts * ffn)
        kernels += 14.0 * share
    # The attention core.
    causal = stack.flash
    keys = model.keys_per_query(causal=causal)
    scores = model.score_width / tp
    core = 2.0 * tokens * keys * scores / r.attention
    head_dim = model.head_dim
    if device.kind == "gpu" and head_dim % 8:
        core *= 2.0 if stack.flash else 12.0
    elif device.kind == "tpu":
        # A head narrower than the systolic array (256 from v6e on) leaves part of it idle.
        core *= _pad(head_dim, device.tile[1])
    core_bytes = 4.0 * r.itemsize * tokens * width
    if not stack.flash:
        stored = r.itemsize * tokens * keys * model.heads / tp
        core_bytes += SCORE_PASSES * stored * constants.traffic
    core_memory = core_bytes / r.memory
    attention = core + core_memory - KAPPA * min(core, core_memory) + constants.ramp_s
    # Norms and residuals work on whole rows unless the sequence is split too; the rest is local.
    row = 10.0 * h / (tp if plan.sequence_parallel else 1) + 4.0 * (width + kv)
    row += (6.0 if model.gated else 4.0) * ffn_rows
    joint = 1.0 if stack.flash else JOINT_KERNELS
    elementwise = constants.traffic * joint * r.itemsize * tokens * row / r.memory
    return LayerTime(matmul, attention, elementwise, kernels, last, qkv)


def head_forward(
    model: Transformer, plan: Parallelism, device: Device, constants: Constants, r: Rates
) -> float:
    """Seconds of final norm, head and loss for one microbatch, forward.

    Args:
        model: the transformer.
        plan: degrees.
        device: where.
        constants: achieved shares.
        r: from `rates`.
    """
    tokens = plan.microbatch * model.seq / plan.cp
    vocab = model.vocab / plan.tp
    compute = 2.0 * tokens * model.hidden * vocab / r.matmul16
    loss_bytes = FUSED_LOSS_BYTES
    if device.kind == "gpu":
        compute *= _ramp(model.hidden, tokens)
        loss_bytes = UNFUSED_LOSS_BYTES
    moved = tokens * vocab * loss_bytes + r.itemsize * vocab * model.hidden
    memory = moved / r.memory
    return compute + memory - KAPPA * min(compute, memory) + constants.ramp_s
