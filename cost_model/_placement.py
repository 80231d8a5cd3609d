"""Lay a logical mesh onto a topology, axis by axis: which links an axis rides sets its price.

Switched networks fill from the inside: the last mesh axis varies fastest, so it lies in the
innermost level with room. On a torus every physical dimension is factored over the logical axes;
all such factorings are enumerated, because which one is best depends on the traffic.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from ._check import positive_int
from ._links import Link, Segment
from ._topology import Level, Topology
from .errors import PlacementError

# v4 paper (arXiv:2304.01433), section 2.9: a twisted 4x4x8 does all-to-all 1.63 times as fast as
# the plain torus, a twisted 4x8x8 1.31 times.
_TWIST_GAIN = {1: 1.63, 2: 1.31}


@dataclass(frozen=True, slots=True)
class Placement:
    """A logical mesh on a topology.

    Attributes:
        topology: where it lies.
        links: axis name -> what that axis rides on, in mesh order.
        splits: number of torus dimensions that were cut between axes.
    """

    topology: Topology
    links: Mapping[str, Link]
    splits: int = 0

    def __getitem__(self, axis: str) -> Link:
        return self.links[axis]


def _switched(topology: Topology, mesh: Mapping[str, int]) -> Placement:
    links: dict[str, Link] = {}
    stride = 1
    for axis in reversed(list(mesh)):
        size = mesh[axis]
        segments: list[Segment] = []
        low, remaining, position = 1, size, stride
        for index, level in enumerate(topology.inner):
            high = low * level.size
            last = index == len(topology.inner) - 1
            if remaining > 1 and (position < high or last):
                part = remaining if last else math.gcd(remaining, max(high // position, 1))
                if part > 1:
                    segments.append(_switch_segment(level, part))
                    position *= part
                    remaining //= part
            low = high
        links[axis] = Link(tuple(segments))
        stride *= size
    return Placement(topology, {axis: links[axis] for axis in mesh})


def _switch_segment(level: Level, size: int) -> Segment:
    bandwidth = level.bytes_per_s
    if level.peer_bytes_per_s:
        # Fully connected: a group of g uses g - 1 of the links, no more.
        bandwidth = min(bandwidth, (size - 1) * level.peer_bytes_per_s)
    return Segment(
        kind="switch",
        level=level.name,
        size=size,
        bytes_per_s=bandwidth,
        latency_s=level.latency_s,
        steps=size - 1,
    )


def _factorings(length: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `length` as an ordered product of `parts` factors."""
    if parts == 1:
        yield (length,)
        return
    for factor in range(1, length + 1):
        if length % factor == 0:
            for rest in _factorings(length // factor, parts - 1):
                yield (factor, *rest)


def _torus_segment(topology: Topology, taken: list[tuple[int, int, int]]) -> Segment:
    """Segment of an axis that holds (dimension, factor, stride) pieces of the torus."""
    link = topology.device.ici_link_bytes_per_s / max(topology.device.devices_per_chip, 1)
    bandwidth, steps, size = 0.0, 0.0, 1
    for dimension, factor, stride in taken:
        length = topology.torus[dimension]
        # A ring drives both directions; an open line only one at a time (2x the time). A piece
        # with a stride shares its links with the pieces between.
        closed = topology.wraps[dimension] and (factor == length or stride > 1)
        bandwidth += link * (2 if closed else 1) / stride
        steps += (factor / 2 if closed else factor - 1) * stride
        size *= factor
    whole = sorted(topology.torus)
    twist = 1.0
    if topology.twisted and size == math.prod(topology.torus):
        twist = _TWIST_GAIN[sum(length == whole[-1] for length in whole)]
    return Segment(
        kind="torus",
        level="ici",
        size=size,
        bytes_per_s=bandwidth,
        latency_s=topology.device.ici_hop_latency_s,
        steps=steps,
        all_to_all_gain=twist,
    )


def _torus_placements(topology: Topology, mesh: Mapping[str, int]) -> Iterator[Placement]:
    axes = list(mesh)
    inner_axis = axes[-1]
    packages = math.prod(level.size for level in topology.inner)
    slices = topology.outer.size if topology.outer else 1
    for package_axis, in_package in _package_choices(mesh, inner_axis, packages):
        for dcn_axis in _dcn_choices(mesh, slices, package_axis, in_package):
            wanted = []
            for axis in axes:
                size = mesh[axis]
                if axis == package_axis:
                    size //= in_package
                if axis == dcn_axis:
                    size //= slices
                wanted.append(size)
            if math.prod(wanted) != math.prod(topology.torus):
                continue
            for pieces, splits in _assign(topology.torus, tuple(wanted)):
                links: dict[str, Link] = {}
                for index, axis in enumerate(axes):
                    segments: list[Segment] = []
                    if axis == package_axis and in_package > 1:
                        segments.append(_switch_segment(topology.inner[0], in_package))
                    if pieces[index]:
                        segments.append(_torus_segment(topology, list(pieces[index])))
                    if axis == dcn_axis and topology.outer:
                        segments.append(_switch_segment(topology.outer, slices))
                    links[axis] = Link(tuple(segments))
                yield Placement(topology, links, splits)


def _package_choices(
    mesh: Mapping[str, int], inner_axis: str, packages: int
) -> Iterator[tuple[str, int]]:
    if packages == 1:
        yield inner_axis, 1
        return
    for axis in reversed(list(mesh)):
        if mesh[axis] % packages == 0:
            yield axis, packages


def _dcn_choices(
    mesh: Mapping[str, int], slices: int, package_axis: str, in_package: int
) -> Iterator[str]:
    if slices == 1:
        yield ""
        return
    for axis, size in mesh.items():
        if (size // (in_package if axis == package_axis else 1)) % slices == 0:
            yield axis


@cache
def _assign(
    shape: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[tuple[tuple[tuple[tuple[int, int, int], ...], ...], int], ...]:
    """All factorings of torus dimensions over axes: per axis its pieces, and the splits made."""
    found: list[tuple[tuple[tuple[tuple[int, int, int], ...], ...], int]] = []

    def descend(
        dimension: int, left: tuple[int, ...], pieces: tuple[tuple[tuple[int, int, int], ...], ...]
    ) -> None:
        if dimension == len(shape):
            if all(size == 1 for size in left):
                splits = sum(len(p) for p in pieces) - sum(length > 1 for length in shape)
                found.append((pieces, splits))
            return
        for factors in _factorings(shape[dimension], len(left)):
            if any(size % factor for size, factor in zip(left, factors, strict=True)):
                continue
            stride = 1
            new = list(pieces)
            for index in reversed(range(len(left))):
                if factors[index] > 1:
                    new[index] = (*pieces[index], (dimension, factors[index], stride))
                    stride *= factors[index]
            rest = tuple(size // factor for size, factor in zip(left, factors, strict=True))
            descend(dimension + 1, rest, tuple(new))

    descend(0, wanted, ((),) * len(wanted))
    return tuple(sorted(found, key=lambda item: item[1]))


def placements(topology: Topology, mesh: Mapping[str, int]) -> Iterator[Placement]:
    """All admissible ways to lay `mesh` onto `topology`, those with the fewest cuts first.

    Args:
        topology: where to.
        mesh: axis name -> size, outermost first.

    Yields:
        Placements; a switched network has one.

    Raises:
        PlacementError: the sizes do not multiply to the devices, or no factoring exists.
    """
    for axis, size in mesh.items():
        positive_int(f"mesh.{axis}", size)
    if math.prod(mesh.values()) != topology.devices:
        raise PlacementError(
            dict(mesh),
            str(topology),
            f"its axes multiply to {math.prod(mesh.values())}, "
            f"the topology has {topology.devices} devices",
        )
    if not topology.torus:
        yield _switched(topology, mesh)
        return
    found = False
    for placement in _torus_placements(topology, mesh):
        found = True
        yield placement
    if not found:
        shape = "x".join(map(str, topology.torus))
        raise PlacementError(dict(mesh), str(topology), f"no axis sizes factor the torus {shape}")


def place(topology: Topology, mesh: Mapping[str, int]) -> Placement:
    """The placement that cuts fewest torus dimensions, with slices on the outermost axis.

    Args:
        topology: where to.
        mesh: axis name -> size, outermost first.

    Raises:
        PlacementError: as `placements`.
    """

    def badness(placement: Placement) -> tuple[int, int, float]:
        outer = [link.level == "dcn" for link in placement.links.values()]
        slow = sum(
            math.log(1 / s.bytes_per_s) for k in placement.links.values() for s in k.segments
        )
        return (placement.splits, outer.index(True) if True in outer else 0, slow)

    return min(placements(topology, mesh), key=badness)


def mesh_shapes(devices: int, axes: int) -> Iterator[tuple[int, ...]]:
    """All ordered factorings of `devices` into `axes` sizes, for the search over meshes."""
    yield from _factorings(positive_int("devices", devices), positive_int("axes", axes))
