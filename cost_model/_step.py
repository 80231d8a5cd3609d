"""Seconds of one training step of a transformer, term by term.

The step is built from the inside out: one layer on one device; its tensor, context and expert
collectives; a pipeline stage and its bubble; the gradient, gather and optimizer traffic that the
backward pass hides or does not hide. Every term is kept, so an error can be attributed.

Sources: Narayanan et al. SC21 (pipeline and tensor terms), Korthikanti et al. arXiv:2205.05198
(sequence parallelism, recomputation), Rajbhandari et al. ZeRO (traffic of the stages), Liu et al.
ring attention, jax-ml/scaling-book (torus collectives).
"""

import math
from dataclasses import dataclass, field, replace

from ._collectives import all_gather, all_reduce, all_to_all, permute, reduce_scatter
from ._constants import Constants, Stack
from ._layer import head_forward, layer_forward, rates
from ._links import Link
from ._meshlinks import StepLinks
from ._overlap import exposed, overlapped
from ._parallel import Parallelism, Precision
from ._topology import Topology
from ._transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        seconds: the whole.
        terms: seconds on the critical path by term; they add up to `seconds`.
        hidden: seconds of communication that ran behind computation, by term.
        microbatches: microbatches per replica.
        bubble: share of the pipeline's time that stages wait.
    """

    seconds: float
    terms: dict[str, float] = field(default_factory=dict)
    hidden: dict[str, float] = field(default_factory=dict)
    microbatches: int = 1
    bubble: float = 0.0


def _tensor_comm(
    model: Transformer, plan: Parallelism, tokens: float, itemsize: int, link: Link
) -> float:
    """Tensor-parallel seconds of one layer forward: two all-reduces of the residual stream.

    With sequence parallelism each becomes an all-gather and a reduce-scatter of the same bytes.
    """
    if plan.tp == 1:
        return 0.0
    size = tokens * model.hidden * itemsize
    if plan.sequence_parallel:
        return 2 * (all_gather(size, link) + reduce_scatter(size, link))
    return 2 * all_reduce(size, link)


def _context_comm(
    model: Transformer, plan: Parallelism, tokens: float, itemsize: int, link: Link
) -> float:
    """Ring attention seconds of one layer forward: cp - 1 steps pass keys and values on.

    Source: Liu et al., Ring Attention (arXiv:2310.01889).
    """
    if plan.cp == 1:
        return 0.0
    kv = max(model.kv_heads / plan.tp, 1.0) * model.head_dim
    return (plan.cp - 1) * permute(2 * tokens * kv * itemsize, link)


def _expert_comm(
    model: Transformer,
    plan: Parallelism,
    tokens: float,
    itemsize: int,
    link: Link,
    *,
    dedup: bool,
) -> float:
    """Expert-parallel seconds of one average layer forward: dispatch and combine all-to-alls.

    With deduplication a token goes once to each of the D nodes that hold one of its k experts:
    D (1 - (1 - 1/D)^k) of them on average (DeepEP; DeepSeek-V3 report, section 3.2.2).
    """
    if plan.ep == 1 or not model.experts:
        return 0.0
    share = model.moe_layers / model.layers
    if dedup and len(link.segments) > 1:
        far = link.segments[-1]
        nodes = far.size * (1 - (1 - 1 / far.size) ** model.top_k)
        gain = max(1.0, model.top_k / nodes)
        link = Link((*link.segments[:-1], replace(far, bytes_per_s=far.bytes_per_s * gain)))
    # Sequence-parallel ranks each route their own part of the tokens.
    whole = tokens / plan.tp * model.top_k * model.hidden * itemsize * plan.ep
    return share * 2 * all_to_all(whole, link)


def step_time(
    model: Transformer,
    topology: Topology,
    plan: Parallelism,
    links: StepLinks,
    stack: Stack,
    constants: Constants,
    *,
    microbatches: int,
    precision: Precision,
    optimizer_bytes_per_parameter: float = 28.0,
) -> StepTime:
    """Price one optimizer step.

    Args:
        model: what is trained.
        topology: where.
        plan: degrees; already checked.
        links: what each kind of parallelism rides on, at achieved rates.
        stack: software.
        constants: achieved shares.
        microbatches: microbatches per step and replica.
        precision: arithmetic of the matrix products.
        optimizer_bytes_per_parameter: HBM traffic of the update: Adam reads and writes two
            moments and the float32 weight, reads the gradient and writes 16-bit weights.

    Returns:
        Seconds with their terms.
    """
    device = topology.device
    r = rates(device, constants, precision)
    tokens = plan.microbatch * model.seq / plan.cp
    layer = layer_forward(model, plan, device, stack, constants, r)
    head = head_forward(model, plan, device, constants, r)
    replay = {"none": 0.0, "selective": 0.0, "full": 1.0}[plan.recompute]

    # One layer, forward and backward: the backward pass does twice the arithmetic, and a
    # recomputed layer runs forward once more; selective recomputation replays the core alone.
    passes = 3.0 + replay
    core_passes = passes + (1.0 if plan.recompute == "selective" and not stack.flash else 0.0)
    matmul = layer.matmul_s * passes
    core = layer.attention_s * core_passes
    # Where scores are never stored, selective policies keep the products and replay the rest.
    light = 1.0 if plan.recompute == "selective" and stack.flash else 0.0
    elementwise = layer.elementwise_s * (passes + light)
    layer_s = matmul + core + elementwise
    launch = max(0.0, layer.kernels * passes * constants.launch_s - layer_s)

    tensor = _tensor_comm(model, plan, tokens, r.itemsize, links.tp) * (2.0 + replay)
    tensor_hidden = tensor
    tensor = overlapped(layer_s, tensor, constants.tensor_exposed) - layer_s
    tensor_hidden -= tensor
    context = _context_comm(model, plan, tokens, r.itemsize, links.cp) * (3.0 + replay)
    context_hidden = context
    # The ring hides behind the attention core only.
    context = exposed(core, context, constants.tensor_exposed * 0.3)
    context_hidden -= context
    expert = _expert_comm(model, plan, tokens, r.itemsize, links.ep, dedup=stack.expert_dedup) * (
        2.0 + replay
    )
    expert_hidden = expert
    expert = exposed(layer_s, expert, constants.expert_exposed)
    expert_hidden -= expert

    # Weights gathered and gradients scattered per layer (ZeRO-3).
    per_stage = model.layers / plan.pp
    dense = (model.parameters - model.embedding_parameters - model.routed_parameters) / model.layers
    routed = model.routed_parameters / model.layers
    layer_weights = dense / plan.tp + routed / (plan.ep if plan.ep > 1 else plan.tp)
    wire = 2 if precision != "fp32" else 4
    gather = gather_hidden = gather_edges = 0.0
    if plan.zero == 3 and links.fsdp.segments:
        once = all_gather(layer_weights * wire, links.fsdp)
        scatter = reduce_scatter(layer_weights * stack.gradient_bytes, links.fsdp)
        # With a pipeline the stage stays gathered from the first microbatch to the last.
        total = 2 * once + scatter if plan.pp == 1 else (once + scatter) / microbatches
        busy = layer_s + launch + tensor + context + expert
        gather = overlapped(busy, total, constants.gather_exposed) - busy
        gather_hidden = total - gather
        # The first gather and the last scatter of the step have nothing to hide behind.
        gather_edges = once + scatter

    per_layer = layer_s + launch + tensor + context + expert + gather
    most_layers = math.ceil(model.layers / (plan.pp * plan.vpp)) * plan.vpp
    head_s = 3.0 * head
    embed_s = 3.0 * tokens * model.hidden * r.itemsize * 2 / r.memory
    m = microbatches

    # Pipeline: stages are unequal by ceil(L / p) and by the head on the last one.
    pipeline = bubble_s = hop = imbalance = 0.0
    average = per_stage * per_layer
    if plan.pp > 1:
        slow = max(
            most_layers * per_layer,
            (per_stage * plan.pp - most_layers * (plan.pp - 1)) * per_layer + head_s,
        )
        total_stages = model.layers * per_layer + head_s + embed_s
        boundary = tokens * model.hidden * r.itemsize
        if stack.scatter_gather or plan.sequence_parallel:
            boundary /= plan.tp
        hop = 2 * permute(boundary, links.pp) * plan.vpp * constants.transfer_exposed
        fill = max(0.0, total_stages - slow)
        if plan.schedule == "zb-h1":
            fill *= 1 / 3
        elif plan.schedule == "zb-h2":
            fill = 0.0
        bubble_s = fill / plan.vpp + (plan.pp - 1) * hop / plan.vpp
        imbalance = m * (slow - average)
        pipeline = m * hop
    else:
        slow = model.layers * per_layer + head_s + embed_s
    microbatch_s = m * constants.microbatch_s

    # Gradients across data-parallel replicas, hidden behind the last microbatch's backward pass.
    stage_weights = per_stage * layer_weights + (
        model.embedding_parameters / plan.tp / (1 if plan.pp == 1 else 2)
    )
    data = data_hidden = 0.0
    if links.dp.segments:
        grads = stage_weights * stack.gradient_bytes / plan.weight_shards
        data = all_reduce(grads, links.dp)
        hideable = 2 / 3 * slow
        visible = exposed(hideable, data, constants.data_exposed)
        data_hidden = data - visible
        data = visible
        if plan.zero in (1, 2) and stack.sharded_optimizer_gather:
            after = all_gather(stage_weights * wire, links.dp)
            first = exposed(slow / 3, after, constants.data_exposed)
            # Reduce-scatter replaces all-reduce, the gather comes after the update.
            half = data / 2
            data_hidden += data - half + after - first
            data = half + first
    shards = plan.dp * plan.cp if plan.zero else 1
    optimizer = stage_weights * optimizer_bytes_per_parameter / shards / r.memory

    spread = constants.jitter * math.log2(max(links.nodes, 1))
    layers_m = per_stage * m
    terms = {
        "matmul": matmul * layers_m,
        "attention": core * layers_m,
        "elementwise": elementwise * layers_m + (0.0 if plan.pp > 1 else m * embed_s),
        "head": 0.0 if plan.pp > 1 else m * head_s,
        "launch": launch * layers_m,
        "tensor": tensor * layers_m,
        "context": context * layers_m,
        "expert": expert * layers_m,
        "weights": gather * layers_m + gather_edges,
        "imbalance": imbalance,
        "bubble": bubble_s,
        "transfer": pipeline,
        "data": data,
        "optimizer": optimizer,
        "host": microbatch_s + constants.step_s,
    }
    terms = {name: value * constants.derate for name, value in terms.items()}
    subtotal = sum(terms.values())
    terms["jitter"] = subtotal * spread
    hidden = {
        "tensor": tensor_hidden * layers_m,
        "context": context_hidden * layers_m,
        "expert": expert_hidden * layers_m,
        "weights": gather_hidden * layers_m,
        "data": data_hidden,
    }
    busy = m * slow
    return StepTime(
        seconds=subtotal * (1.0 + spread),
        terms=terms,
        hidden=hidden,
        microbatches=m,
        bubble=bubble_s / (busy + bubble_s) if busy else 0.0,
    )
