"""How devices are wired: torus slices, scale-up islands, clusters of nodes, mixtures of clusters.

One grammar names them all: `cpu:8`, `v5e:2x4`, `v5p:4x4x8`, `h100:8`, `h100:4x8` (nodes x GPUs),
`v5e:16x16*4` (four slices over the data-centre network). TPU shapes count chips; where a chip
shows two devices (TPU7x) the package is a level of its own inside the torus.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ._check import positive, positive_int
from ._hardware import Catalog, Device, load_catalog
from .errors import InvalidFieldError, TopologySyntaxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a hierarchy of switches, e.g. the NVLink domain of a node.

    Attributes:
        name: "package", "domain", "node", "group", "cluster" or "dcn".
        size: units of the level below that this level joins.
        bytes_per_s: what one device can send out of its unit of the level below, one direction.
        latency_s: latency of one step.
        peer_bytes_per_s: where units are fully connected, the link to one peer; else 0.
        devices_per_card: devices that share one network card.
    """

    name: str
    size: int
    bytes_per_s: float
    latency_s: float
    peer_bytes_per_s: float = 0.0
    devices_per_card: int = 1

    def __post_init__(self) -> None:
        positive_int(f"level {self.name}.size", self.size)
        positive(f"level {self.name}.bytes_per_s", self.bytes_per_s)
        positive_int(f"level {self.name}.devices_per_card", self.devices_per_card)


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes with the same network card, for clusters that mix them (Holmes, arXiv:2312.03549).

    Attributes:
        name: e.g. "infiniband".
        nodes: number of nodes.
        bytes_per_s: share of the node's cards that one device has, one direction.
    """

    name: str
    nodes: int
    bytes_per_s: float

    def __post_init__(self) -> None:
        positive_int(f"group {self.name}.nodes", self.nodes)
        positive(f"group {self.name}.bytes_per_s", self.bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Devices and the links between them.

    Attributes:
        device: what sits at every place.
        torus: shape of one slice in chips; empty for switched networks.
        wraps: per torus dimension, whether its ring closes.
        twisted: whether the torus is wired with a twist (n x n x 2n and n x 2n x 2n on v4, v5p).
        inner: switched levels inside the torus' nodes, or all levels of a switched network,
            innermost first.
        outer: the level above a torus that joins slices, or None.
        text: the topology as the grammar writes it.
    """

    device: Device
    torus: tuple[int, ...] = ()
    wraps: tuple[bool, ...] = ()
    twisted: bool = False
    inner: tuple[Level, ...] = ()
    outer: Level | None = None
    text: str = field(default="", compare=False)

    @property
    def devices(self) -> int:
        """Number of devices."""
        count = math.prod(self.torus) * math.prod(level.size for level in self.inner)
        return count * (self.outer.size if self.outer else 1)

    def __str__(self) -> str:
        return self.text or f"{self.device.name} ({self.devices} devices)"


def torus_wraps(device: Device, shape: Sequence[int]) -> tuple[bool, ...]:
    """Which axes of a TPU slice close into rings.

    v5e and v6e close an axis only at length 16; v4, v5p and TPU7x close all axes of slices made
    of whole 4x4x4 cubes; v2 and v3 only the whole pod. An axis of length 1 or 2 needs no ring:
    its two links already join the same pair.

    Args:
        device: a TPU.
        shape: slice shape in chips.

    Returns:
        One flag per dimension.

    Source: jax-ml/scaling-book, "How to Think About TPUs"; Google Cloud TPU documentation.
    """
    if device.ici_wrap == "length-16":
        return tuple(length == 16 for length in shape)
    if device.ici_wrap == "cubes-of-4":
        cubes = len(shape) == 3 and all(length % 4 == 0 for length in shape)
        return tuple(cubes for _ in shape)
    return tuple(tuple(shape) == device.ici_max_shape for _ in shape)


def _twistable(shape: Sequence[int]) -> bool:
    ordered = sorted(shape)
    low, high = ordered[0], ordered[-1]
    return len(shape) == 3 and low >= 4 and high == 2 * low


def torus(
    device: Device, shape: Sequence[int], *, slices: int = 1, twisted: bool | None = None
) -> Topology:
    """One or more TPU slices.

    Args:
        device: a TPU of the catalog.
        shape: chips per dimension; missing dimensions count as 1.
        slices: number of slices, joined by the data-centre network.
        twisted: wire it with a twist; default: where v4 and v5p do so on request, no.

    Raises:
        InvalidFieldError: too many or too long dimensions, or a twist where there is none.
    """
    if not 1 <= len(shape) <= max(device.ici_dims, 1):
        raise InvalidFieldError("shape", tuple(shape), f"up to {device.ici_dims} dimensions")
    for length in shape:
        positive_int("shape", length)
    limit = sorted(device.ici_max_shape, reverse=True)
    ordered = sorted(shape, reverse=True)
    if any(length > most for length, most in zip(ordered, limit, strict=False)):
        most = "x".join(map(str, device.ici_max_shape))
        raise InvalidFieldError("shape", "x".join(map(str, shape)), f"{device.name} up to {most}")
    if twisted and not _twistable(shape):
        raise InvalidFieldError(
            "twisted", True, "n x n x 2n or n x 2n x 2n, n >= 4", "Only those shapes twist."
        )
    inner = ()
    if device.in_package_size > 1 or device.devices_per_chip > 1:
        inner = (
            Level(
                name="package",
                size=max(device.in_package_size, device.devices_per_chip),
                bytes_per_s=device.in_package_bytes_per_s or 8 * device.ici_link_bytes_per_s,
                latency_s=device.ici_hop_latency_s,
            ),
        )
    outer = None
    if positive_int("slices", slices) > 1:
        outer = Level(
            name="dcn",
            size=slices,
            bytes_per_s=device.scale_out_bytes_per_s,
            latency_s=device.scale_out_latency_s,
        )
    text = f"{device.name}:{'x'.join(map(str, shape))}" + (f"*{slices}" if slices > 1 else "")
    return Topology(
        device=device,
        torus=tuple(shape),
        wraps=torus_wraps(device, shape),
        twisted=bool(twisted),
        inner=inner,
        outer=outer,
        text=text,
    )


def cluster(
    device: Device,
    nodes: int,
    devices_per_node: int,
    *,
    nic_bytes_per_s: float | None = None,
    devices_per_card: int = 1,
    groups: Sequence[NodeGroup] = (),
    cross_bytes_per_s: float | None = None,
) -> Topology:
    """Nodes of devices behind network cards; several kinds of node if `groups` says so.

    A scale-up domain larger than a host (NVL72) spans hosts: it, not the host, is the first
    level. On an MI250X the two dies of a package come before the node: three levels (Frontier).

    Args:
        device: a GPU or the emulated CPU of the catalog.
        nodes: number of nodes.
        devices_per_node: devices of one node.
        nic_bytes_per_s: one device's share of the node's cards; default: the catalog's.
        devices_per_card: devices that share one card: 2 in a node of eight with four cards.
        groups: kinds of node with their cards; their nodes must add up to `nodes`.
        cross_bytes_per_s: one device's share of the network between groups; default: the slowest
            card.

    Raises:
        InvalidFieldError: sizes that do not add up or exceed the domain.
    """
    positive_int("nodes", nodes)
    positive_int("devices_per_node", devices_per_node)
    nic = nic_bytes_per_s or device.scale_out_bytes_per_s
    total = nodes * devices_per_node
    domain = min(devices_per_node, device.scale_up_domain)
    if device.scale_up_domain > device.devices_per_host and device.kind == "gpu":
        # The domain outgrows a host: as many whole nodes as it holds, in equal parts (a job of
        # 256 on NVL72 racks takes 64 from each of four).
        most = min(total, device.scale_up_domain)
        domain = max(
            size
            for size in range(devices_per_node, most + 1, devices_per_node)
            if total % size == 0
        )
    if total % domain:
        raise InvalidFieldError(
            "devices_per_node", devices_per_node, f"a multiple of the domain of {domain}"
        )
    levels: list[Level] = []
    package = math.gcd(device.in_package_size, domain)
    if package > 1:
        levels.append(
            Level(
                name="package",
                size=package,
                bytes_per_s=device.in_package_bytes_per_s,
                latency_s=device.scale_up_latency_s,
            )
        )
    if domain > package:
        levels.append(
            Level(
                name="domain",
                size=domain // package,
                bytes_per_s=device.scale_up_bytes_per_s,
                latency_s=device.scale_up_latency_s,
                peer_bytes_per_s=device.scale_up_peer_bytes_per_s,
            )
        )
    latency = device.scale_out_latency_s
    if groups:
        if sum(group.nodes for group in groups) != nodes:
            raise InvalidFieldError("groups", [g.nodes for g in groups], f"{nodes} nodes in all")
        # Instances of one collective run in every group at once: the slowest card paces them.
        slowest = min(group.bytes_per_s for group in groups)
        width = math.gcd(*(group.nodes for group in groups))
        if width > 1:
            levels.append(Level(name="group", size=width, bytes_per_s=slowest, latency_s=latency))
        levels.append(
            Level(
                name="cluster",
                size=nodes // width,
                bytes_per_s=cross_bytes_per_s or slowest,
                latency_s=latency,
            )
        )
    elif total > domain:
        levels.append(
            Level(
                name="cluster",
                size=total // domain,
                bytes_per_s=nic,
                latency_s=latency,
                devices_per_card=devices_per_card,
            )
        )
    text = f"{device.name}:{nodes}x{devices_per_node}" if nodes > 1 else f"{device.name}:{total}"
    return Topology(device=device, inner=tuple(levels), text=text)


_GRAMMAR = re.compile(r"^\s*([\w.\-]+?)\s*:\s*(\d+(?:x\d+)*)\s*(?:\*\s*(\d+))?\s*$")


def parse_topology(text: str, catalog: Catalog | None = None) -> Topology:
    """Read a topology.

    Args:
        text: DEVICE:SHAPE, optionally *SLICES.
        catalog: where devices are looked up; default: the shipped catalog.

    Returns:
        The topology.

    Raises:
        TopologySyntaxError: the text does not follow the grammar.
        UnknownNameError: no such device.
        InvalidFieldError: a shape that the device does not have.

    Example:
        >>> parse_topology("v5e:16x16*4").devices
        1024
        >>> parse_topology("h100:4x8").devices
        32
    """
    match = _GRAMMAR.match(text)
    if match is None:
        raise TopologySyntaxError(text, "it does not read as a device and a shape")
    device = (catalog or load_catalog())[match[1]]
    shape: tuple[int, ...] = tuple(int(part) for part in match[2].split("x"))
    slices = int(match[3] or 1)
    if min(shape) < 1 or slices < 1:
        raise TopologySyntaxError(text, "a size is zero")
    if device.kind == "tpu":
        while len(shape) > device.ici_dims and shape[-1] == 1:
            shape = shape[:-1]
        return torus(device, shape, slices=slices)
    if slices > 1:
        raise TopologySyntaxError(text, "only TPU slices are joined with '*'")
    if len(shape) > 2:
        raise TopologySyntaxError(text, "a cluster is nodes x devices")
    sizes = list(shape)
    per_node = sizes[-1]
    nodes = sizes[0] if len(sizes) == 2 else 1
    if len(shape) == 1 and device.kind == "gpu" and per_node > device.scale_up_domain:
        raise TopologySyntaxError(
            text,
            f"{per_node} devices exceed one domain of {device.scale_up_domain}; "
            "write nodes x devices",
        )
    return cluster(device, nodes, per_node)


def default_topology(device: Device, devices: int) -> Topology:
    """The usual way in which `devices` of one kind are bought.

    GPUs come in whole nodes; TPU slices are as square as the torus allows, and more than one
    slice once they outgrow it.

    Args:
        device: a device of the catalog.
        devices: how many JAX devices.
    """
    positive_int("devices", devices)
    if device.kind != "tpu":
        per_node = min(devices, device.devices_per_host)
        while devices % per_node:
            per_node -= 1
        return cluster(device, devices // per_node, per_node)
    per_chip = max(device.in_package_size, device.devices_per_chip)
    chips = max(1, devices // per_chip)
    slices = 1
    most = math.prod(device.ici_max_shape)
    while chips // slices > most or chips % slices:
        slices += 1
    per_slice = chips // slices
    if device.ici_wrap == "cubes-of-4" and per_slice % 64 == 0:
        # Whole cubes, so that every axis closes.
        shape = tuple(4 * length for length in square_shape(per_slice // 64, device.ici_dims))
    else:
        shape = square_shape(per_slice, device.ici_dims)
    return torus(device, shape, slices=slices)


def square_shape(chips: int, dims: int) -> tuple[int, ...]:
    """Factor `chips` into `dims` lengths as equal as possible, shortest first."""
    if dims <= 1:
        return (chips,)
    best = (1,) * (dims - 1) + (chips,)
    for length in range(1, round(chips ** (1 / dims)) + 2):
        if chips % length == 0:
            rest = square_shape(chips // length, dims - 1)
            shape = tuple(sorted((length, *rest)))
            if max(shape) < max(best) or (max(shape) == max(best) and min(shape) > min(best)):
                best = shape
    return best
