r"""Seconds of a collective over one axis or several.

Sizes follow one rule: `total_bytes` is the whole (gathered) array of all participants together
for all-gather, reduce-scatter and all-to-all; for all-reduce, broadcast and permute it is the
array that each device holds. Per segment of size :math:`D` with :math:`r` participants inside
each of its units, an all-gather of :math:`V` bytes takes

.. math:: t = \frac{V + h}{r W} \frac{n - 1}{n} + \alpha\,\text{steps}

(:math:`h`: the size at half bandwidth; :math:`n` the participants of one ring). On a torus and
between slices every segment has its own ring, :math:`n = D`, and they run one after the other, as
XLA emits them. On switches NCCL winds one ring through all devices, :math:`n = r D`: between two
nodes of eight it carries 15/16 of the array, where a hierarchical algorithm would carry half. Its
levels are pipelined, so the slowest one paces the others.

Sources: jax-ml/scaling-book ("TPUs", "GPUs": torus and hierarchical formulas); Thakur et al. 2005
and NCCL (ring and tree); Hockney's alpha-beta model.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

from ._check import non_negative
from ._links import Link, Segment
from ._measured import CollectiveTables
from .errors import InvalidFieldError

CollectiveKind = Literal[
    "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute", "broadcast"
]

# NCCL src/graph/tuning.cc: a tree reaches at most this share of the ring's bandwidth.
TREE_BANDWIDTH = 0.9
# XLA's one-shot all-reduce kernel is used up to this size.
ONE_SHOT_BYTES = 256 * 1024


def _passes(total_bytes: float, link: Link) -> tuple[float, float]:
    """Bandwidth and latency seconds of one all-gather pass."""
    inside, pipelined, chained, latency = 1, 0.0, 0.0, 0.0
    for segment in link.segments:
        own_ring = segment.kind == "torus" or segment.level == "dcn"
        ring = segment.size if own_ring else segment.size * inside
        part = (ring - 1) / ring
        seconds = (total_bytes + segment.half_bytes) * part / (segment.bytes_per_s * inside)
        if own_ring:
            chained += seconds
        elif seconds > pipelined:
            pipelined = seconds
        latency += segment.latency_s * segment.steps
        inside *= segment.size
    return pipelined + chained, latency


def all_gather(total_bytes: float, link: Link) -> float:
    """Gather shards into the whole array on every device.

    Args:
        total_bytes: bytes of the gathered array.
        link: what the axis rides on.

    Returns:
        Seconds. The torus is bound by bandwidth or by hops, whichever is longer (scaling book:
        max(T_min X/2, V/W)); a switched ring pays both.
    """
    if not link.segments:
        return 0.0
    bandwidth, latency = _passes(total_bytes, link)
    if all(segment.kind == "torus" for segment in link.segments):
        return max(bandwidth, latency)
    return bandwidth + latency


def reduce_scatter(total_bytes: float, link: Link) -> float:
    """Reduce whole arrays into shards: an all-gather run backwards, at the same price.

    Args:
        total_bytes: bytes of the unreduced array on each device.
        link: what the axis rides on.
    """
    return all_gather(total_bytes, link)


def all_reduce_algorithms(total_bytes: float, link: Link) -> dict[str, float]:
    """Seconds of an all-reduce by algorithm.

    Args:
        total_bytes: bytes of the array on each device.
        link: what the axis rides on.

    Returns:
        "ring": reduce-scatter then all-gather. On switched links also "tree" (two passes of
        log2(n) steps at 0.9 of the bandwidth, without the (n-1)/n) and, for small arrays,
        "one-shot" (everyone sends everything to everyone in one step).
    """
    if not link.segments:
        return {"none": 0.0}
    bandwidth, latency = _passes(total_bytes, link)
    torus = all(segment.kind == "torus" for segment in link.segments)
    once = max(bandwidth, latency) if torus else bandwidth + latency
    times = {"ring": 2 * once}
    if any(segment.kind == "torus" for segment in link.segments):
        return times
    tree_latency = sum(s.latency_s * math.ceil(math.log2(s.size)) for s in link.segments)
    slowest = 0.0
    inside = 1
    for segment in link.segments:
        slowest = max(slowest, (total_bytes + segment.half_bytes) / (segment.bytes_per_s * inside))
        inside *= segment.size
    times["tree"] = 2 * (slowest / TREE_BANDWIDTH + tree_latency)
    if len(link.segments) == 1 and total_bytes <= ONE_SHOT_BYTES:
        only = link.segments[0]
        times["one-shot"] = (only.size - 1) * total_bytes / only.bytes_per_s + only.latency_s
    return times


def all_reduce(total_bytes: float, link: Link) -> float:
    """All-reduce by the fastest algorithm, never faster than a reduce-scatter.

    Args:
        total_bytes: bytes of the array on each device.
        link: what the axis rides on.
    """
    if not link.segments:
        return 0.0
    fastest = min(all_reduce_algorithms(total_bytes, link).values())
    return max(fastest, _floor(total_bytes, link))


def _floor(total_bytes: float, link: Link) -> float:
    # Any all-reduce contains a reduce-scatter's traffic; a one-shot step can hide its latency.
    return _passes(total_bytes, link)[0]


def all_to_all(total_bytes: float, link: Link) -> float:
    """Transpose a sharded array: every device sends a share to every other.

    A ring moves a quarter of an all-gather (bisection of the ring; scaling book, "TPUs"); a
    switch moves V (n-1)/n^2 per device; across units the D units move V (D-1)/D^2 through the r
    cards of each.

    Args:
        total_bytes: bytes of the whole array over all devices.
        link: what the axis rides on.
    """
    seconds, latency, inside = 0.0, 0.0, 1
    size = link.size
    for segment in link.segments:
        count = segment.size
        if segment.kind == "torus":
            share = (count - 1) / (4 * count * segment.all_to_all_gain)
            # Units outside this torus hold their own parts: only 1/outer of V is in one of them.
            seconds += total_bytes * share / segment.bytes_per_s * inside * count / size
        else:
            outside = size // (inside * count)
            per_unit = total_bytes / (count * outside)
            seconds += per_unit * (count - 1) / count / (segment.bytes_per_s * inside)
        latency += segment.latency_s * (segment.steps if segment.kind == "torus" else 1)
        inside *= count
    return seconds + latency


def permute(local_bytes: float, link: Link) -> float:
    """Every device sends its block to one neighbour along the axis.

    Args:
        local_bytes: bytes of one device's block.
        link: what the axis rides on; the outermost segment is crossed.
    """
    if not link.segments:
        return 0.0
    return max(_hop(local_bytes, segment) for segment in link.segments)


def _hop(local_bytes: float, segment: Segment) -> float:
    return (local_bytes + segment.half_bytes) / segment.bytes_per_s + segment.latency_s


def broadcast(local_bytes: float, link: Link) -> float:
    """One device sends its array to all others, pipelined along the ring.

    Args:
        local_bytes: bytes of the array.
        link: what the axis rides on.
    """
    slowest = max(
        ((local_bytes + segment.half_bytes) / segment.bytes_per_s for segment in link.segments),
        default=0.0,
    )
    return slowest + sum(segment.latency_s * segment.steps for segment in link.segments)


_FORMULAS: Mapping[str, Callable[[float, Link], float]] = {
    "all-gather": all_gather,
    "reduce-scatter": reduce_scatter,
    "all-reduce": all_reduce,
    "all-to-all": all_to_all,
    "permute": permute,
    "broadcast": broadcast,
}


def collective_time(
    kind: CollectiveKind, size_bytes: float, link: Link, tables: CollectiveTables | None = None
) -> float:
    """Seconds of one collective; a measured table overrides the formula.

    Args:
        kind: "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute", "broadcast".
        size_bytes: bytes, counted as the functions of this module say.
        link: what the axis rides on.
        tables: measured times, see `_measured`.

    Raises:
        InvalidFieldError: unknown kind or negative size.
    """
    if kind not in _FORMULAS:
        raise InvalidFieldError("kind", kind, ", ".join(_FORMULAS))
    non_negative("size_bytes", size_bytes)
    if not link.segments or size_bytes == 0:
        return 0.0
    if tables is not None:
        measured = tables.lookup(kind, link.level, link.size, size_bytes)
        if measured is not None:
            return measured
    return _FORMULAS[kind](size_bytes, link)
