"""Bytes per device at the peak of a training step, by part, for the fullest pipeline stage.

Model state follows ZeRO (Rajbhandari et al., arXiv:1910.02054, section 3): mixed precision with
Adam keeps 2 + 2 + 12 bytes per parameter (weights, gradients, float32 copy with two moments), and
each stage of ZeRO divides one more of them by the data-parallel degree. Activations follow
Korthikanti et al., see `_activations`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ._activations import layer_activation_bytes
from ._constants import MemoryConstants, Stack
from ._parallel import Parallelism, Precision
from ._transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak bytes of one device.

    Attributes:
        bytes: the whole.
        parts: bytes by part; they add up to `bytes`.
        stage: pipeline stage that holds the most.
        capacity_bytes: device memory.
    """

    bytes: float
    parts: dict[str, float] = field(default_factory=dict)
    stage: int = 0
    capacity_bytes: float = math.inf

    @property
    def fits(self) -> bool:
        """Whether the peak stays within `BUDGET` of the device's memory."""
        return self.bytes <= BUDGET * self.capacity_bytes


# 16-bit logits, float32 softmax and its gradient (vocabulary-parallel cross entropy).
LOGIT_BYTES = 10.0
# Share of device memory that a step may use: allocators need room to round and to reuse.
BUDGET = 0.94


def state_bytes_per_parameter(
    stack: Stack, precision: Precision, zero: int, shards: int
) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer per parameter.

    Args:
        stack: software.
        precision: arithmetic.
        zero: ZeRO stage.
        shards: ranks that share.

    Returns:
        (weights, gradients, optimizer). Plain mixed precision with Adam: 2 + 2 + 12 (4 for
        float32 gradients); JAX keeps float32 weights and two moments: 4 + 4 + 8.
    """
    if stack.master_weights or precision == "fp32":
        weights, gradients, optimizer = 4.0, 4.0, 8.0
    else:
        weights, gradients, optimizer = 2.0, stack.gradient_memory, stack.optimizer_memory
    if stack.fsdp_master and zero == 3:
        # FSDP keeps only the sharded float32 weights; 16-bit ones are gathered copies.
        weights, gradients, optimizer = 4.0, 4.0, 8.0
    return (
        weights / (shards if zero >= 3 else 1),
        gradients / (shards if zero >= 2 else 1),
        optimizer / (shards if zero >= 1 else 1),
    )


def in_flight(plan: Parallelism, microbatches: int, stage: int) -> float:
    """Microbatches whose activations a stage holds at once.

    GPipe and circular pipelines hold all m; 1F1B p - stage of them; interleaving
    1 + (p - 1)/(p v) times as many on stage 0 (Korthikanti, section 4.2); ZB-H2 up to 2p - 1
    (Qi et al., table 2).
    """
    p, m, v = plan.pp, microbatches, plan.vpp
    if p == 1:
        return 1.0
    if plan.schedule in ("gpipe", "circular"):
        return m
    if plan.schedule == "zb-h1":
        return min(p, m)
    if plan.schedule == "zb-h2":
        return min(2 * p - 1, m)
    if plan.schedule == "interleaved":
        return min(p * (1 + (p - 1) / (p * v)) - stage * 2 / v, m)
    return min(p - stage, m)


def stage_layers(model: Transformer, plan: Parallelism) -> Sequence[int]:
    """Layers per stage: as even as possible, the surplus on the first stages."""
    base, extra = divmod(model.layers, plan.pp)
    return [base + (1 if stage < extra else 0) for stage in range(plan.pp)]


def training_memory(
    model: Transformer,
    plan: Parallelism,
    stack: Stack,
    *,
    microbatches: int,
    precision: Precision = "bf16",
    capacity_bytes: float = math.inf,
    constants: MemoryConstants | None = None,
    stage_only: int | None = None,
) -> Memory:
    """Peak bytes of one device in a training step.

    Args:
        model: what is trained.
        plan: degrees.
        stack: software.
        microbatches: microbatches per step and replica.
        precision: arithmetic.
        capacity_bytes: device memory.
        constants: what memory holds beyond the closed forms; default: the stack's prior.
        stage_only: look at this pipeline stage alone (many reports show rank 0 only).

    Returns:
        The fullest stage: the first holds most activations, the last the logits.
    """
    extra = constants or stack.memory
    per_layer = layer_activation_bytes(model, plan, flash=stack.flash)
    tokens = plan.microbatch * model.seq / plan.cp
    layers_of = stage_layers(model, plan)
    # A middle stage never holds more than the first.
    stages = {0, plan.pp - 1} if stage_only is None else {stage_only}
    best: Memory | None = None
    for stage in sorted(stages):
        first, last = stage == 0, stage == plan.pp - 1
        state = _stage_state(model, plan, stack, precision, layers_of[stage], first, last)
        held = in_flight(plan, microbatches, stage)
        # One layer is live in full while it is recomputed.
        working = _working_bytes(model, plan, stack) if plan.recompute != "none" else 0.0
        stem = held * 2.0 * tokens * model.hidden if first else 0.0
        logits = LOGIT_BYTES * tokens * model.vocab / plan.tp if last else 0.0
        # Sequence parallelism gathers a block's whole input; the backward pass its gradient too.
        row_bytes = 4.0 * tokens * model.hidden if plan.sequence_parallel else 0.0
        parts = {
            "weights": state.weights,
            "gradients": state.gradients,
            "optimizer": state.optimizer,
            "activations": (held * layers_of[stage] * per_layer + stem) * extra.activations,
            "recompute": working * extra.activations,
            "logits": logits * extra.logits,
            "gathered": state.gathered + row_bytes,
            "buffers": state.buffered * extra.buffer_bytes,
            "reserve": extra.reserve * (capacity_bytes if math.isfinite(capacity_bytes) else 0.0),
        }
        total = sum(parts.values())
        if best is None or total > best.bytes:
            best = Memory(bytes=total, parts=parts, stage=stage, capacity_bytes=capacity_bytes)
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class _State:
    """Bytes of one device's model state, and the parameters that flat buffers hold."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    buffered: float


def _stage_state(
    model: Transformer,
    plan: Parallelism,
    stack: Stack,
    precision: Precision,
    layers: int,
    first: bool,
    last: bool,
) -> _State:
    """Model state of one stage.

    Experts are spread over `ep` ranks first: only the ranks that hold the same experts can shard
    their state, dp x cp x tp / ep of them.
    """
    tp = plan.tp
    shards = plan.weight_shards if plan.zero == 3 else plan.dp * plan.cp
    expert_shards = max(1, shards * tp // plan.ep) if plan.ep > 1 else shards
    plain = (model.parameters - model.embedding_parameters - model.routed_parameters) / model.layers
    routed = model.routed_parameters / model.layers / (plan.ep if plan.ep > 1 else tp)
    embedding = model.vocab * model.hidden / tp
    dense = layers * plain / tp
    if first:
        dense += embedding
    if last and not (first and model.tied):
        dense += embedding
    experts = layers * routed
    of_dense = state_bytes_per_parameter(stack, precision, plan.zero, shards)
    of_experts = state_bytes_per_parameter(stack, precision, plan.zero, expert_shards)
    weights, gradients, optimizer = (
        dense * a + experts * b for a, b in zip(of_dense, of_experts, strict=True)
    )
    itemsize = 4 if precision == "fp32" else 2
    gathered = 0.0
    buffered = dense + experts
    if plan.zero == 3 and shards > 1:
        if not stack.combined_gradients:
            buffered = dense / shards + experts / expert_shards
        each = plain / tp + (routed if expert_shards > 1 else 0.0)
        # Two layers gathered at once (prefetch), and their gradients before the scatter.
        gathered = min(each * stack.gathered_share, stack.gathered_most) * (2 * itemsize + 4)
        if first or last:
            gathered = max(gathered, embedding * (itemsize + 4))
        if plan.pp > 1:
            # Between microbatches nothing is given back: the stage stays gathered, and its
            # gradients whole, until the step ends.
            gathered = (dense + experts) * (itemsize + stack.gradient_memory)
    return _State(weights, gradients, optimizer, gathered, buffered)


def _working_bytes(model: Transformer, plan: Parallelism, stack: Stack) -> float:
    whole = replace(plan, recompute="none")
    return layer_activation_bytes(model, whole, flash=stack.flash)
