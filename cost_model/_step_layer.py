"""Seconds of one layer on one device, forward and backward, with the collectives inside it."""

from dataclasses import dataclass, replace

from ._collectives import collective_time
from ._constants import Constants, Stack
from ._layer import LayerTime, Rates, layer_forward
from ._links import Link
from ._measured import CollectiveTables
from ._meshlinks import StepLinks
from ._overlap import exposed, overlapped
from ._parallel import Parallelism
from ._topology import Topology
from ._transformer import Transformer

# How sharply a layer turns from launch-bound to busy: kernels differ in length, so that some of
# them wait for the host long before the sum of all does. 3 to 4 are better than 6 and 10
# over all published GPU runs.
LAUNCH_SHARPNESS = 3.5
# Backward pass of a flash attention core relative to its forward pass: five products instead of
# two (Dao, arXiv:2307.08691, section 3.1.2) at about five sixths of the rate (its figures 4 to 6).
FLASH_BACKWARD = 3.0


@dataclass(slots=True)
class LayerCost:
    """Seconds of one average layer for one microbatch, forward and backward.

    Attributes:
        terms: seconds on the critical path by term.
        hidden: seconds of communication behind computation, by term.
        forward_s: the forward pass's part of `terms`.
        weight_s: seconds of the weight gradients, which zero-bubble schedules move.
    """

    terms: dict[str, float]
    hidden: dict[str, float]
    forward_s: float
    weight_s: float

    @property
    def seconds(self) -> float:
        """All terms together."""
        return sum(self.terms.values())


def tensor_seconds(
    model: Transformer,
    plan: Parallelism,
    tokens: float,
    itemsize: int,
    link: Link,
    tables: CollectiveTables | None = None,
) -> float:
    """Tensor-parallel seconds of one layer forward: two all-reduces of the residual stream.

    With sequence parallelism each becomes an all-gather and a reduce-scatter of the same bytes
    (Korthikanti et al., arXiv:2205.05198, section 4.2.2).
    """
    if plan.tp == 1:
        return 0.0
    size = tokens * model.hidden * itemsize
    if plan.sequence_parallel:
        gather = collective_time("all-gather", size, link, tables)
        return 2 * (gather + collective_time("reduce-scatter", size, link, tables))
    return 2 * collective_time("all-reduce", size, link, tables)


def tensor_exposure(constants: Constants, stack: Stack) -> float:
    """Share of tensor-parallel traffic that the stack cannot hide."""
    return constants.tensor_exposed if stack.overlaps else 1.0


def context_seconds(
    model: Transformer,
    plan: Parallelism,
    tokens: float,
    itemsize: int,
    link: Link,
    tables: CollectiveTables | None = None,
) -> float:
    """Ring attention seconds of one layer forward: cp - 1 steps pass keys and values on.

    Source: Liu et al., Ring Attention (arXiv:2310.01889).
    """
    if plan.cp == 1:
        return 0.0
    kv = max(model.kv_heads / plan.tp, 1.0) * model.head_dim
    block = 2 * tokens * kv * itemsize
    return (plan.cp - 1) * collective_time("permute", block, link, tables)


def expert_seconds(
    model: Transformer,
    plan: Parallelism,
    tokens: float,
    itemsize: int,
    link: Link,
    *,
    dedup: bool,
    tables: CollectiveTables | None = None,
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
    return share * 2 * collective_time("all-to-all", whole, link, tables)


def launch_seconds(layer: LayerTime, passes: float, busy_s: float, c: Constants, s: Stack) -> float:
    """Seconds that a layer waits for the host.

    Kernels are queued ahead of the device, which waits only where launching them takes longer
    than running them; with blocking launches (CUDA_LAUNCH_BLOCKING=1) it waits for each.
    """
    launching = layer.kernels * passes * c.launch_s
    if s.blocking:
        return launching
    # A tenth of one arm adds less than a thousandth to the other.
    if launching < 0.1 * busy_s:
        return 0.0
    power = LAUNCH_SHARPNESS
    return (launching**power + busy_s**power) ** (1 / power) - busy_s


def layer_cost(
    model: Transformer,
    topology: Topology,
    plan: Parallelism,
    links: StepLinks,
    stack: Stack,
    constants: Constants,
    r: Rates,
) -> LayerCost:
    """One average layer, forward and backward, without the weights that ZeRO-3 gathers.

    The backward pass does twice the arithmetic of the forward pass, and in a flash kernel three
    times. Full recomputation runs the forward pass once more, except, where the software drops
    what no gradient needs, the last product; save_qkv spares also the products that make queries,
    keys and values; selective recomputation replays the attention core.

    Args:
        model: the transformer.
        topology: where.
        plan: degrees.
        links: what each kind of parallelism rides on.
        stack: software.
        constants: achieved shares.
        r: rates of the device.
    """
    layer = layer_forward(model, plan, topology.device, stack, constants, r)
    tokens = plan.microbatch * model.seq / plan.cp
    selective = plan.recompute == "selective"
    replay = 1.0 if plan.recompute in ("full", "save_qkv") else 0.0
    passes = 3.0 + replay
    replays_core = selective and (stack.replays_core or not stack.flash)
    # A layer's forward pass has four quarters of tensor-parallel traffic: what is gathered for
    # queries, keys and values, scattered behind attention, and the same around the feed-forward.
    kept, quiet = 0.0, 0.0
    if replay and not stack.replays_last:
        kept, quiet = layer.last_s, 0.25
    if plan.recompute == "save_qkv":
        kept, quiet = kept + layer.qkv_s, quiet + 0.25
    matmul = layer.matmul_s * passes - kept
    backward = FLASH_BACKWARD if stack.flash else 2.0
    core = layer.attention_s * (1.0 + backward + replay + replays_core)
    # Where scores are never stored, selective policies keep the products and replay the rest.
    light = 1.0 if selective and stack.flash else 0.0
    elementwise = layer.elementwise_s * (passes + light)
    busy = matmul + core + elementwise
    exposure = tensor_exposure(constants, stack)
    size, tables = r.itemsize, links.tables
    tensor = tensor_seconds(model, plan, tokens, size, links.tp, tables) * (2.0 + replay - quiet)
    context = context_seconds(model, plan, tokens, size, links.cp, tables) * (3.0 + replay)
    dedup = stack.expert_dedup
    expert = expert_seconds(model, plan, tokens, size, links.ep, dedup=dedup, tables=tables)
    expert *= 2.0 + replay
    terms = {
        "matmul": matmul,
        "attention": core,
        "elementwise": elementwise,
        "launch": launch_seconds(layer, passes, busy, constants, stack),
        "tensor": overlapped(busy, tensor, exposure) - busy,
        # The ring hides behind the attention core only.
        "context": exposed(core, context, exposure * 0.3),
        "expert": exposed(busy, expert, constants.expert_exposed),
    }
    hidden = {
        "tensor": tensor - terms["tensor"],
        "context": context - terms["context"],
        "expert": expert - terms["expert"],
    }
    return LayerCost(terms, hidden, sum(terms.values()) / passes, layer.matmul_s)
