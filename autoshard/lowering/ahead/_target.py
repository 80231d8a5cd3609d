"""What to compile for: the topology grammar, and what each platform's compiler calls it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal as OneOf

from autoshard.cost_model import Topology, parse_topology
from autoshard.cost_model.errors import CostModelError
from autoshard.errors import TopologyError

Platform = OneOf["cpu", "gpu", "tpu"]

_CORES_AS_DEVICES = {"v2": 2, "v3": 2, "v4": 2, "tpu7x": 2}
"""Devices that libtpu (0.0.51, 0.0.52) shows for each chip, where it is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Devices that need not be there.

    Args:
        text: The topology as the grammar writes it.
        platform: Whose compiler it takes.
        chip: Name of the device in the hardware catalog.
        name: What the compiler calls one slice or the whole cluster.
        slices: TPU slices, joined by the data-centre network.
        devices: Number of devices.
        hbm_bytes: Memory of one device.
    """

    text: str
    platform: Platform
    chip: str
    name: str
    slices: int
    devices: int
    hbm_bytes: float

    def __str__(self) -> str:
        return self.text


def parse_target(text: str) -> Target:
    """Read a topology to compile for.

    Args:
        text: ``cpu:8``, ``v5e:2x4``, ``v5p:4x4x8``, ``h100:8``, ``h100:4x8`` or ``v5e:16x16*4``.

    Returns:
        The target.

    Raises:
        TopologyError: It cannot be read, or there is no such device or shape.
    """
    try:
        topology = parse_topology(text)
    except CostModelError as error:
        problem = str(error).removeprefix(f"Topology {text!r}: ").split(". Write DEVICE")[0]
        raise TopologyError(text, problem.rstrip(".")) from error
    device = topology.device
    memory = device.hbm_bytes
    if device.kind == "tpu":
        per_chip = _CORES_AS_DEVICES.get(device.name, 1)
        if device.name == "v4":
            memory /= per_chip  # the catalog's v4 is a chip whose cores act as one
        slices = topology.outer.size if topology.outer else 1
        return _target(
            topology,
            name=f"{device.name}:{'x'.join(map(str, topology.torus))}",
            slices=slices,
            devices=math.prod(topology.torus) * per_chip * slices,
            memory=memory,
        )
    nodes, per_node = 1, topology.devices
    if "x" in topology.text.partition(":")[2]:
        nodes, per_node = map(int, topology.text.partition(":")[2].split("x"))
    name = f"1x{nodes}x{per_node}" if device.kind == "gpu" else str(topology.devices)
    return _target(topology, name=name, slices=1, devices=topology.devices, memory=memory)


def _target(topology: Topology, *, name: str, slices: int, devices: int, memory: float) -> Target:
    return Target(
        text=str(topology),
        platform=topology.device.kind,
        chip=topology.device.name,
        name=name,
        slices=slices,
        devices=devices,
        hbm_bytes=memory,
    )
