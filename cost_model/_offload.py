"""Tiers below device memory: host and NVMe, with what moving state there costs.

Optimizer offload (ZeRO-Offload, arXiv:2101.06840) sends gradients down and weights up once per
step and updates on the host; activation offload moves them down in the forward and up in the
backward pass. Both hide behind computation as far as the link allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ._check import fraction, one_of
from ._hardware import Device
from ._memory import Memory
from ._overlap import exposed
from ._step import StepTime
from .errors import InvalidFieldError

Tier = Literal["host", "nvme"]

# NVMe read and write bandwidth of one device's share (a PCIe 4 x4 drive between two devices).
NVME_BYTES_PER_S = 3.2e9
# Parameters per second that one device's share of the host's cores updates with Adam.
HOST_ADAM_PARAMETERS_PER_S = 2.5e8


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """What leaves the device.

    Attributes:
        optimizer: share of the optimizer state kept off the device.
        activations: share of the activations moved out between forward and backward pass.
        tier: where to.
        host_update: whether the host runs the update, so that only gradients and weights move.
    """

    optimizer: float = 0.0
    activations: float = 0.0
    tier: Tier = "host"
    host_update: bool = True

    def __post_init__(self) -> None:
        fraction("offload.optimizer", self.optimizer)
        fraction("offload.activations", self.activations)
        one_of("offload.tier", self.tier, ("host", "nvme"))


def tier_bytes_per_s(device: Device, tier: Tier) -> float:
    """One-way bandwidth between a device and a tier, in bytes/s."""
    if tier == "nvme":
        return min(NVME_BYTES_PER_S, device.host_bytes_per_s)
    return device.host_bytes_per_s


def tiers(device: Device) -> Mapping[str, tuple[float, float]]:
    """Capacity in bytes and bandwidth in bytes/s of HBM, host and NVMe, per device.

    NVMe capacity is not in the catalog: 0 stands for "not known".
    """
    share = device.host_bytes / max(device.devices_per_host, 1)
    return {
        "hbm": (device.hbm_bytes, device.hbm_bytes_per_s),
        "host": (share, device.host_bytes_per_s),
        "nvme": (0.0, tier_bytes_per_s(device, "nvme")),
    }


def offload_time(
    step: StepTime, memory: Memory, offload: Offload, device: Device
) -> tuple[StepTime, Memory]:
    """Move state off the device: less memory, more seconds.

    Args:
        step: seconds without offload.
        memory: bytes without offload.
        offload: what moves.
        device: its host link sets the pace.

    Returns:
        Seconds and bytes with offload. On one device with p parameters the update moves 2p bytes
        of gradients down and 2p bytes of weights up (`host_update`), or the state both ways.

    Raises:
        InvalidFieldError: the state does not fit into the host's share.
    """
    link = tier_bytes_per_s(device, offload.tier)
    moved_state = offload.optimizer * memory.parts["optimizer"]
    parameters = moved_state / 12.0
    moved_activations = offload.activations * memory.parts["activations"]
    share, _ = tiers(device)["host"]
    if offload.tier == "host" and share and moved_state + moved_activations > share:
        raise InvalidFieldError(
            "offload",
            f"{(moved_state + moved_activations) / 1e9:.0f} GB",
            f"up to {share / 1e9:.0f} GB of host memory per device, or tier='nvme'",
        )
    if offload.host_update:
        update = 4.0 * parameters / link + parameters / HOST_ADAM_PARAMETERS_PER_S
    else:
        update = 2.0 * moved_state / link
    backward = 2 / 3 * (step.terms["matmul"] + step.terms["attention"])
    down_up = 2.0 * moved_activations * step.microbatches / link
    visible = update * 0.5 + exposed(backward, down_up, 0.1)
    on_device = step.terms["optimizer"] * (1 - offload.optimizer)
    saved = step.terms["optimizer"] - on_device
    terms = {**step.terms, "optimizer": on_device, "offload": visible}
    parts = {
        **memory.parts,
        "optimizer": memory.parts["optimizer"] - moved_state,
        "activations": memory.parts["activations"] - moved_activations,
    }
    return (
        replace(step, seconds=step.seconds - saved + visible, terms=terms),
        replace(memory, bytes=sum(parts.values()), parts=parts),
    )
