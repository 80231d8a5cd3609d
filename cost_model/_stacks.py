"""Software stacks: what a training framework does, as far as it changes time or memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConstants:
    """What turns the closed forms of memory into what a process holds.

    Attributes:
        reserve: share of device memory held by context, libraries, communicators and the
            allocator's idle blocks.
        buffer_bytes: flat buffers (gradient buckets, casts) per parameter of the device.
        activations: factor on activations: allocator surplus, what a compiler saves or drops.
        logits: factor on the ten bytes per logit of the loss (16-bit logits, float32 softmax and
            gradient).
    """

    reserve: float = 0.03
    buffer_bytes: float = 0.0
    activations: float = 1.05
    logits: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a training framework does, as far as it changes time or memory.

    Attributes:
        name: key.
        flash: whether attention runs in a fused kernel that never writes the score matrix.
        kernels_per_layer: kernels of one layer's forward pass, one host launch each.
        compiled: whether the step is compiled: no launch floor, elementwise work fused.
        gradient_bytes: bytes per gradient on the wire.
        gradient_memory: bytes per gradient in memory: 2, 4, or 6 for 16-bit gradients beside a
            float32 accumulator.
        optimizer_memory: bytes of optimizer state per parameter beside 16-bit weights: 12 with a
            float32 copy of the weights and two moments, 8 without the copy.
        scatter_gather: whether pipeline transfers are split over the tensor-parallel ranks.
        sharded_optimizer_gather: whether ZeRO-1 gathers 16-bit weights after the step.
        expert_dedup: whether a token crosses to a node once, however many of its experts are there.
        master_weights: whether float32 weights are the parameters themselves (JAX) rather than a
            copy beside 16-bit ones.
        fsdp_master: whether ZeRO-3 keeps float32 shards and gathers 16-bit copies.
        gathered_share: share of a layer's weights that ZeRO-3 holds gathered at once, and of its
            gradients before they are scattered: all of it, or a matrix of three at a time.
        gathered_most: most parameters that it holds gathered (DeepSpeed's
            stage3_max_live_parameters).
        combined_gradients: whether ZeRO-3 reduces all gradients at once, whole before they are
            cut (XLA's combiner as Alpa used it): flat buffers then hold every parameter.
        overlaps: whether collectives run beside computation: gradients bucket by bucket behind the
            backward pass, tensor-parallel ones behind products that do not need them. Megatron of
            2021 waits for each.
        blocking: whether every kernel launch waits for the kernel before (CUDA_LAUNCH_BLOCKING).
        replays_last: whether full recomputation runs a block's last product again, whose result
            no gradient needs: JAX drops it as dead code, PyTorch's non-reentrant checkpoints stop
            before it.
        replays_core: whether selective recomputation runs a flash kernel again (policies that
            save matrix products by their primitive, as JAX's do).
        memory: what memory holds beyond the closed forms, before any run is seen.
        prior: constants where this stack's prior differs from the default.
    """

    name: str
    flash: bool = True
    kernels_per_layer: int = 22
    compiled: bool = False
    gradient_bytes: int = 2
    gradient_memory: float = 4.0
    optimizer_memory: float = 12.0
    scatter_gather: bool = False
    sharded_optimizer_gather: bool = True
    expert_dedup: bool = False
    master_weights: bool = False
    fsdp_master: bool = False
    gathered_share: float = 1.0
    gathered_most: float = math.inf
    combined_gradients: bool = False
    overlaps: bool = True
    blocking: bool = False
    replays_last: bool = True
    replays_core: bool = False
    memory: MemoryConstants = field(default_factory=MemoryConstants)
    prior: Mapping[str, float]


_ALLOCATOR = MemoryConstants(reserve=0.02, activations=0.8, logits=0.6)
_DEEPSPEED = MemoryConstants(reserve=0.07, buffer_bytes=1.0, logits=0.6)
_UNFUSED = {"traffic": 1.0, "attention": 0.5}
_COMPILED = {
    "traffic": 0.5,
    "launch_s": 1e-6,
    "microbatch_s": 1e-4,
    "step_s": 5e-3,
    "tensor_exposed": 0.5,
}

_XLA = Stack(
    name="autoshard",
    memory=_ALLOCATOR,
    compiled=True,
    master_weights=True,
    gathered_share=1 / 3,
    replays_last=False,
    replays_core=True,
    prior=_COMPILED,
)

STACKS: Mapping[str, Stack] = {
    stack.name: stack
    for stack in (
        Stack(
            name="megatron",
            memory=MemoryConstants(reserve=0.04),
            flash=False,
            scatter_gather=True,
            gradient_memory=2.0,
            overlaps=False,
            prior=_UNFUSED,
        ),
        Stack(
            name="megatron-deepspeed",
            memory=_DEEPSPEED,
            flash=False,
            gradient_memory=2.0,
            overlaps=False,
            prior={**_UNFUSED, "microbatch_s": 3e-3, "launch_s": 3.2e-5},
        ),
        # ZeRO-3 of 2021 gathered parameter by parameter: a tenth of the network was reached.
        Stack(
            name="deepspeed-zero3",
            gathered_most=1e9,
            memory=_DEEPSPEED,
            flash=False,
            gradient_memory=2.0,
            prior={**_UNFUSED, "out": 0.12, "gather_exposed": 0.5},
        ),
        Stack(
            name="megatron-bridge",
            gradient_bytes=2,
            scatter_gather=True,
            kernels_per_layer=14,
            expert_dedup=True,
            prior={"traffic": 0.7, "launch_s": 2e-6, "tensor_exposed": 0.5, "data_exposed": 0.2},
        ),
        Stack(name="llm-foundry", kernels_per_layer=18, fsdp_master=True, prior={"traffic": 1.0}),
        Stack(
            name="torchtitan",
            kernels_per_layer=16,
            fsdp_master=True,
            replays_last=False,
            prior={"traffic": 0.6},
        ),
        replace(_XLA, name="maxtext", gradient_bytes=4),
        replace(_XLA, name="pax", gradient_bytes=4),
        Stack(
            name="alpa",
            combined_gradients=True,
            gathered_share=0.0,  # as ZeRO-2 in its tables: the buffers hold it
            replays_last=False,
            memory=MemoryConstants(reserve=0.02, buffer_bytes=1.0, activations=0.8, logits=0.25),
            flash=False,
            compiled=True,
            gradient_memory=2.0,
            prior={**_COMPILED, "traffic": 0.7, "data_exposed": 0.9, "gather_exposed": 0.9},
        ),
        _XLA,
        # What the fit finds for the PyTorch stacks with flash attention: 0.76 and 0.78.
        Stack(name="generic", memory=MemoryConstants(activations=0.8), prior={}),
    )
}


def stack(name: str) -> Stack:
    """Look up a software stack.

    Raises:
        UnknownNameError: no such stack.
    """
    if name not in STACKS:
        raise UnknownNameError("stack", name, sorted(STACKS))
    return STACKS[name]
