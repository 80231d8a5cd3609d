"""What one logical mesh axis rides on: a few segments, innermost first.

A segment is one ring (or switch) with its size and its bandwidth per device. The collectives in
`_collectives` need nothing else, so a torus axis, an NVLink island and a slow network between
nodes are priced by the same three lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ._check import non_negative, positive, positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of an axis.

    Attributes:
        kind: "torus" for point-to-point rings, "switch" where every pair has a path.
        level: name of the level it lies on, e.g. "domain", "cluster", "ici", "dcn".
        size: participants along it.
        bytes_per_s: what one participant receives at best in a pipelined all-gather.
        latency_s: latency of one step.
        steps: hops of one all-gather pass over it, at the least.
        half_bytes: message size at which half of the bandwidth is reached.
        all_to_all_gain: factor on all-to-all bandwidth (twisted torus); 1 otherwise.
    """

    kind: str
    level: str
    size: int
    bytes_per_s: float
    latency_s: float
    steps: float
    half_bytes: float = 0.0
    all_to_all_gain: float = 1.0

    def __post_init__(self) -> None:
        positive_int("segment.size", self.size)
        positive("segment.bytes_per_s", self.bytes_per_s)
        non_negative("segment.latency_s", self.latency_s)


@dataclass(frozen=True, slots=True)
class Link:
    """What one logical axis (or several taken together) rides on.

    Attributes:
        segments: innermost first; empty for an axis of size 1.
    """

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Number of participants."""
        return math.prod(segment.size for segment in self.segments)

    @property
    def level(self) -> str:
        """The outermost level that the axis reaches."""
        return self.segments[-1].level if self.segments else "device"

    def scaled(self, bandwidth: float = 1.0, latency: float = 1.0) -> "Link":
        """The same axis with achievable rather than nominal figures.

        Args:
            bandwidth: factor on every bandwidth.
            latency: factor on every latency.
        """
        return Link(
            tuple(
                replace(
                    segment,
                    bytes_per_s=segment.bytes_per_s * bandwidth,
                    latency_s=segment.latency_s * latency,
                )
                for segment in self.segments
            )
        )


def ring(size: int, bytes_per_s: float, latency_s: float = 0.0, *, level: str = "domain") -> Link:
    """A single switched ring: `size` devices that each send `bytes_per_s` one way."""
    if size == 1:
        return Link(())
    return Link(
        (
            Segment(
                kind="switch",
                level=level,
                size=size,
                bytes_per_s=bytes_per_s,
                latency_s=latency_s,
                steps=size - 1,
            ),
        )
    )


def together(links: Sequence[Link]) -> Link:
    """Several axes used by one collective.

    Torus dimensions add their bandwidths, because a chip drives all its links at once (scaling
    book: all-gather over k axes takes V / (k W)). Switched segments on one level merge into a
    larger group on that level.

    Args:
        links: one per axis.

    Returns:
        The link of the product axis.
    """
    merged: dict[tuple[str, str], Segment] = {}
    for link in links:
        for segment in link.segments:
            key = (segment.kind, segment.level)
            seen = merged.get(key)
            if seen is None:
                merged[key] = segment
            elif segment.kind == "torus":
                merged[key] = replace(
                    seen,
                    size=seen.size * segment.size,
                    bytes_per_s=seen.bytes_per_s + segment.bytes_per_s,
                    steps=seen.steps + segment.steps,
                )
            else:
                size = seen.size * segment.size
                merged[key] = replace(
                    seen,
                    size=size,
                    bytes_per_s=min(seen.bytes_per_s, segment.bytes_per_s),
                    steps=size - 1,
                )
    order = {"package": 0, "domain": 1, "node": 2, "ici": 3, "group": 4, "cluster": 5, "dcn": 6}
    return Link(tuple(sorted(merged.values(), key=lambda s: order.get(s.level, 9))))
