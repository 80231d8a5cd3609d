"""Which physical links each kind of parallelism rides on, at the rates that are achieved."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from ._constants import Constants
from ._links import Link, Segment
from ._measured import CollectiveTables
from ._parallel import Parallelism
from ._placement import place
from ._topology import Topology
from .errors import PlacementError


@dataclass(frozen=True, slots=True)
class StepLinks:
    """Links of one training step.

    Attributes:
        tp: tensor-parallel group.
        cp: context-parallel ring.
        ep: expert-parallel group.
        dp: data-parallel group that reduces gradients (replicas of shards with zero=3).
        fsdp: group that shards the weights.
        pp: between neighbouring stages.
        nodes: nodes or slices of the job.
        tables: measured collectives, which come before formulas.
    """

    tp: Link
    cp: Link
    ep: Link
    dp: Link
    fsdp: Link
    pp: Link
    nodes: int
    tables: CollectiveTables | None = None


_NOTHING = Link(())

# A group with g devices in every node could drive g devices' shares of the network cards. Where
# it is the whole node, or every device has its own card, it does. A part of a node whose cards
# serve several devices shares them with the groups beside it, and runs as if it had g to this
# power (vTrain's and BigScience's runs with tp of 2 and 4, on nodes with four cards for eight).
PARTIAL_NODE = 0.3


def _achieved(segments: list[Segment], c: Constants, shared_in: int = 1) -> Link:
    """Segments at achieved rates; `shared_in`: devices of a node whose cards are shared."""
    out: list[Segment] = []
    inside = 1
    for s in segments:
        far = s.level in ("cluster", "group", "dcn")
        share, latency = (c.out, c.out_latency_s) if far else (c.up, c.up_latency_s)
        steps = s.steps
        if far and 1 < inside < shared_in:
            share *= inside ** (PARTIAL_NODE - 1.0)
        inside *= s.size
        if s.kind == "switch":
            # NCCL's latency per collective grows slowly with the ring; the constant is per call.
            latency, steps = latency * (1 + math.log2(s.size)) / 4, 1.0
        else:
            latency = s.latency_s
        out.append(
            Segment(
                kind=s.kind,
                level=s.level,
                size=s.size,
                bytes_per_s=s.bytes_per_s * share,
                latency_s=latency,
                steps=steps,
                all_to_all_gain=s.all_to_all_gain,
            )
        )
    return Link(tuple(out))


def _switched(topology: Topology, size: int, stride: int) -> list[Segment]:
    """Segments of `size` ranks that lie `stride` apart in a switched network."""
    segments: list[Segment] = []
    low, remaining, position = 1, size, stride
    count = len(topology.inner)
    for index, level in enumerate(topology.inner):
        if remaining == 1:
            break
        high = low * level.size
        last = index == count - 1
        if position < high or last:
            part = remaining if last else math.gcd(remaining, max(high // position, 1))
            if part > 1:
                bandwidth = level.bytes_per_s
                if level.peer_bytes_per_s:
                    bandwidth = min(bandwidth, (part - 1) * level.peer_bytes_per_s)
                segments.append(
                    Segment(
                        kind="switch",
                        level=level.name,
                        size=part,
                        bytes_per_s=bandwidth,
                        latency_s=level.latency_s,
                        steps=part - 1,
                    )
                )
                position *= part
                remaining //= part
        low = high
    return segments


def step_links(
    topology: Topology,
    plan: Parallelism,
    c: Constants,
    tables: CollectiveTables | None = None,
) -> StepLinks:
    """Lay the mesh (pp, dp, cp, tp) onto the topology; tp is innermost.

    Args:
        topology: where.
        plan: degrees.
        c: achieved shares of bandwidth and latencies.
        tables: measured collectives, handed on to the step.

    Returns:
        Links at achieved rates.

    Raises:
        PlacementError: a torus that the degrees do not factor.
    """
    if topology.torus:
        return replace(_torus_links(topology, plan, c), tables=tables)
    near = [level for level in topology.inner if level.name not in ("cluster", "group")]
    node = math.prod(level.size for level in near)
    shared_in = node if any(level.devices_per_card > 1 for level in topology.inner) else 1
    tp, cp, dp = plan.tp, plan.cp, plan.dp
    inner = tp * cp
    tensor = _achieved(_switched(topology, tp, 1), c, shared_in) if tp > 1 else _NOTHING
    context = _achieved(_switched(topology, cp, tp), c, shared_in) if cp > 1 else _NOTHING
    data = fsdp = expert = pipe = _NOTHING
    if plan.zero == 3:
        shards = plan.weight_shards
        fsdp = _achieved(_switched(topology, shards, tp), c, shared_in) if shards > 1 else _NOTHING
        replicas = dp * cp // shards
        if replicas > 1:
            data = _achieved(_switched(topology, replicas, tp * shards), c, shared_in)
    elif dp * cp > 1:
        data = _achieved(_switched(topology, dp * cp, tp), c, shared_in)
    if plan.ep > 1:
        stride = 1 if plan.ep > dp * cp else tp
        expert = _achieved(_switched(topology, plan.ep, stride), c, shared_in)
    if plan.pp > 1:
        # Neighbouring stages lie dp x cp x tp apart.
        pipe = _achieved(_switched(topology, plan.pp, inner * dp)[-1:], c, shared_in)
    nodes = math.prod(level.size for level in topology.inner) // node
    return StepLinks(tensor, context, expert, data, fsdp, pipe, nodes, tables)


@lru_cache(maxsize=4096)
def _placed(topology: Topology, mesh: tuple[tuple[str, int], ...]) -> Mapping[str, Link]:
    """Placements of the same mesh recur in a sweep and cost more than an estimate."""
    return place(topology, dict(mesh)).links


def _torus_links(topology: Topology, plan: Parallelism, c: Constants) -> StepLinks:
    slices = topology.outer.size if topology.outer else 1
    shards = plan.weight_shards
    mesh: dict[str, int] = {}
    replicas = plan.dp // (shards if plan.zero == 3 else 1) if plan.zero == 3 else plan.dp
    replicas = max(replicas, 1)
    if plan.pp > 1:
        mesh["pp"] = plan.pp
    mesh["dp"] = replicas
    if plan.zero == 3 and shards > 1:
        mesh["fsdp"] = min(shards, plan.dp)
    if plan.cp > 1:
        mesh["cp"] = plan.cp
    if plan.tp > 1:
        mesh["tp"] = plan.tp
    try:
        links = _placed(topology, tuple(mesh.items()))
    except PlacementError:
        # Shards that span slices: the whole data axis rides the torus and the slow network.
        merged = {k: v for k, v in mesh.items() if k not in ("dp", "fsdp")}
        merged = {"dp": plan.dp, **merged} if plan.dp > 1 else merged
        links = _placed(topology, tuple(merged.items()))
        if plan.zero == 3:
            links = {**links, "fsdp": links.get("dp", _NOTHING), "dp": _NOTHING}

    def get(name: str) -> Link:
        return _achieved(list(links.get(name, _NOTHING).segments), c)

    fsdp, context = get("fsdp"), get("cp")
    if plan.zero == 3 and plan.cp > 1:
        fsdp = Link((*context.segments, *fsdp.segments))
    return StepLinks(
        get("tp"),
        context,
        fsdp if plan.zero == 3 else get("dp"),
        get("dp") if plan.zero != 3 or replicas > 1 else _NOTHING,
        fsdp,
        get("pp"),
        slices,
    )
