"""Seconds of one training step of a transformer, term by term.

The step is built from the inside out: one layer on one device with its tensor, context and expert
collectives (`_step_layer`); a pipeline stage and its bubble (`_step_pipeline`); the gradient,
gather and optimizer traffic that the backward pass hides or does not hide. Every term is kept, so
an error can be attributed.

Sources: Narayanan et al. SC21 (pipeline and tensor terms), Korthikanti et al. arXiv:2205.05198
(sequence parallelism, recomputation), Rajbhandari et al. ZeRO (traffic of the stages), Liu et al.
ring attention, jax-ml/scaling-book (torus collectives).
"""

import math
from dataclasses import dataclass, field

from ._collectives import collective_time
from ._constants import Constants, Stack
from ._layer import head_forward, rates
from ._meshlinks import StepLinks
from ._overlap import exposed, overlapped
from ._parallel import Parallelism, Precision
from ._step_layer import LayerCost, layer_cost, tensor_exposure, tensor_seconds
from ._step_pipeline import PipelineTime, pipeline_time
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


@dataclass(frozen=True, slots=True)
class _Weights:
    """Weights of one device: of a layer, and of a stage with its embedding."""

    layer: float
    stage: float


def _weights(model: Transformer, plan: Parallelism) -> _Weights:
    dense = (model.parameters - model.embedding_parameters - model.routed_parameters) / model.layers
    routed = model.routed_parameters / model.layers
    layer = dense / plan.tp + routed / (plan.ep if plan.ep > 1 else plan.tp)
    embedding = model.embedding_parameters / plan.tp / (1 if plan.pp == 1 else 2)
    return _Weights(layer, model.layers / plan.pp * layer + embedding)


def _gathers(
    plan: Parallelism,
    links: StepLinks,
    stack: Stack,
    constants: Constants,
    layer: LayerCost,
    weights: float,
    wire: int,
    microbatches: int,
) -> float:
    """Add the weights that ZeRO-3 gathers and the gradients that it scatters to a layer.

    Returns:
        Seconds of the first gather and the last scatter of the step, which nothing hides.
    """
    layer.terms["weights"] = layer.hidden["weights"] = 0.0
    if plan.zero != 3 or not links.fsdp.segments:
        return 0.0
    once = collective_time("all-gather", weights * wire, links.fsdp, links.tables)
    scatter = collective_time(
        "reduce-scatter", weights * stack.gradient_bytes, links.fsdp, links.tables
    )
    # With a pipeline the stage stays gathered from the first microbatch to the last.
    total = 2 * once + scatter if plan.pp == 1 else (once + scatter) / microbatches
    busy = layer.seconds
    visible = overlapped(busy, total, constants.gather_exposed) - busy
    layer.terms["weights"], layer.hidden["weights"] = visible, total - visible
    return once + scatter


def _gradients(
    plan: Parallelism,
    links: StepLinks,
    stack: Stack,
    constants: Constants,
    stage_weights: float,
    wire: int,
    stage_s: float,
) -> tuple[float, float]:
    """Gradients across replicas, behind the last microbatch's backward pass.

    Returns:
        (visible, hidden) seconds.
    """
    if not links.dp.segments:
        return 0.0, 0.0
    size = stage_weights * stack.gradient_bytes / plan.weight_shards
    whole = collective_time("all-reduce", size, links.dp, links.tables)
    behind = stage_s if stack.overlaps else 0.0
    visible = exposed(2 / 3 * behind, whole, constants.data_exposed)
    hidden = whole - visible
    if plan.zero in (1, 2) and stack.sharded_optimizer_gather:
        after = collective_time("all-gather", stage_weights * wire, links.dp, links.tables)
        first = exposed(behind / 3, after, constants.data_exposed)
        # Reduce-scatter replaces all-reduce, the gather comes after the update.
        half = visible / 2
        hidden += visible - half + after - first
        visible = half + first
    return visible, hidden


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
    r = rates(topology.device, constants, precision)
    layer = layer_cost(model, topology, plan, links, stack, constants, r)
    weights = _weights(model, plan)
    wire = 2 if precision != "fp32" else 4
    edges = _gathers(plan, links, stack, constants, layer, weights.layer, wire, microbatches)
    tokens = plan.microbatch * model.seq / plan.cp
    head_s = 3.0 * head_forward(model, plan, topology.device, constants, r)
    embed_s = 3.0 * tokens * model.hidden * r.itemsize * 2 / r.memory
    if plan.tp > 1:
        # A vocabulary in shards: one all-reduce behind the lookup, one of the head's gradient.
        reduce_s = tensor_seconds(model, plan, tokens, r.itemsize, links.tp, links.tables) / 2
        reduce_s *= tensor_exposure(constants, stack)
        embed_s += reduce_s
        head_s += reduce_s
    boundary = tokens * model.hidden * r.itemsize
    if stack.scatter_gather or plan.sequence_parallel:
        boundary /= plan.tp
    hop_s = 0.0
    if plan.pp > 1:
        hop_s = 2 * collective_time("permute", boundary, links.pp, links.tables)
        hop_s *= constants.transfer_exposed
    pipe = pipeline_time(model.layers, plan, layer, head_s, embed_s, hop_s, microbatches)
    data, data_hidden = _gradients(
        plan, links, stack, constants, weights.stage, wire, pipe.slowest_s
    )
    shards = plan.dp * plan.cp if plan.zero else 1
    m = microbatches
    count = model.layers / plan.pp * m
    terms = {name: seconds * count for name, seconds in layer.terms.items()}
    alone = plan.pp == 1
    terms["elementwise"] += m * embed_s if alone else 0.0
    terms["weights"] += edges
    terms |= {
        "head": m * head_s if alone else 0.0,
        "imbalance": pipe.imbalance_s,
        "bubble": pipe.bubble_s,
        "transfer": pipe.transfer_s,
        "data": data,
        "optimizer": weights.stage * optimizer_bytes_per_parameter / shards / r.memory,
        "host": m * constants.microbatch_s + constants.step_s,
    }
    hidden = {name: seconds * count for name, seconds in layer.hidden.items()}
    return _assemble(terms, hidden | {"data": data_hidden}, constants, links, pipe, m)


def _assemble(
    terms: dict[str, float],
    hidden: dict[str, float],
    constants: Constants,
    links: StepLinks,
    pipe: PipelineTime,
    microbatches: int,
) -> StepTime:
    terms = {name: value * constants.derate for name, value in terms.items()}
    subtotal = sum(terms.values())
    spread = constants.jitter * math.log2(max(links.nodes, 1))
    terms["jitter"] = subtotal * spread
    busy = microbatches * pipe.slowest_s
    return StepTime(
        seconds=subtotal * (1.0 + spread),
        terms=terms,
        hidden=hidden,
        microbatches=microbatches,
        bubble=pipe.bubble_s / (busy + pipe.bubble_s) if busy else 0.0,
    )
