"""The few numbers that no datasheet gives: achieved shares of peaks, latencies, exposed shares.

They are fitted to published runs (`fit/`), in log space with a prior, and add up from three
effects: what the hardware does, what the software stack does, and what is peculiar to one site.
A platform that was never seen falls back to the prior; one whose hardware and whose software
were seen apart takes the sum.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any

from ._check import positive
from ._stacks import STACKS as STACKS
from ._stacks import MemoryConstants as MemoryConstants
from ._stacks import Stack as Stack
from ._stacks import stack as stack
from .errors import InvalidFieldError


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What turns datasheet figures into seconds.

    Attributes:
        matmul: share of the dense peak that large, aligned matrix products reach.
        low_precision: the same for 8- and 4-bit products, relative to `matmul`.
        ramp_s: seconds that every matrix product loses to ramp-up and tail.
        attention: share of the peak that the attention core reaches.
        memory: share of the HBM bandwidth that streaming kernels reach.
        traffic: factor on the bytes of unfused elementwise work (below 1: fused).
        launch_s: seconds between two kernel launches of one host thread.
        up: share of the scale-up bandwidth (NVLink, ICI) that collectives reach.
        up_latency_s: latency of one collective inside a domain.
        out: share of the scale-out bandwidth (NIC, DCN) that collectives reach.
        out_latency_s: latency of one collective across nodes.
        data_exposed: share of gradient traffic that cannot hide behind the backward pass.
        gather_exposed: the same for the weights that ZeRO-3 gathers and scatters.
        tensor_exposed: the same for tensor-parallel collectives.
        transfer_exposed: share of pipeline transfers that stages wait for.
        derate: factor on the whole step: clocks under load, stragglers, everything unnamed.
        step_s: seconds per step outside the model.
        microbatch_s: host seconds per microbatch.
        jitter: slowdown per doubling of the number of nodes or slices.
        experts: share of `matmul` that grouped expert products reach.
        expert_exposed: share of the expert all-to-alls that is not hidden.
    """

    matmul: float = 0.75
    low_precision: float = 0.85
    ramp_s: float = 8e-6
    attention: float = 0.45
    memory: float = 0.8
    traffic: float = 1.0
    launch_s: float = 6e-6
    up: float = 0.7
    up_latency_s: float = 3e-5
    out: float = 0.7
    out_latency_s: float = 6e-5
    data_exposed: float = 0.5
    gather_exposed: float = 0.2
    tensor_exposed: float = 0.9
    transfer_exposed: float = 0.7
    derate: float = 1.0
    step_s: float = 2e-2
    microbatch_s: float = 5e-4
    jitter: float = 5e-3
    experts: float = 0.7
    expert_exposed: float = 0.7

    def __post_init__(self) -> None:
        for each in fields(self):
            positive(f"constants.{each.name}", getattr(self, each.name))


NAMES = tuple(field.name for field in fields(Constants))

# Standard deviation of the prior on the logarithm of each constant, before any run is seen.
PRIOR_WIDTH: Mapping[str, float] = {
    "matmul": 0.16,
    "low_precision": 0.26,
    "ramp_s": 0.6,
    "attention": 0.45,
    "memory": 0.2,
    "traffic": 0.52,
    "launch_s": 0.91,
    "up": 0.33,
    "up_latency_s": 0.91,
    "out": 0.45,
    "out_latency_s": 0.91,
    "data_exposed": 0.78,
    "gather_exposed": 0.91,
    "tensor_exposed": 0.39,
    "transfer_exposed": 0.91,
    "derate": 0.16,
    "step_s": 1.3,
    "microbatch_s": 1.3,
    "jitter": 1,
    "experts": 0.45,
    "expert_exposed": 0.65,
}

# No constant leaves these bounds, however odd the data.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "matmul": (0.2, 0.98),
    "low_precision": (0.25, 1.1),
    "ramp_s": (2e-7, 1e-4),
    "attention": (0.05, 0.95),
    "memory": (0.3, 0.98),
    "traffic": (0.1, 3.0),
    "launch_s": (1e-7, 1e-4),
    "up": (0.15, 1.0),
    "up_latency_s": (1e-6, 4e-4),
    "out": (0.08, 1.0),
    "out_latency_s": (2e-6, 1e-3),
    "data_exposed": (0.02, 1.0),
    "gather_exposed": (0.01, 1.0),
    "tensor_exposed": (0.1, 1.0),
    "transfer_exposed": (0.03, 1.5),
    "derate": (0.7, 1.6),
    "step_s": (1e-4, 3.0),
    "microbatch_s": (1e-5, 0.1),
    "jitter": (1e-4, 0.05),
    "experts": (0.1, 1.0),
    "expert_exposed": (0.03, 1.0),
}


# How soon a constant feels its bound, on the logarithmic scale.
_SOFTNESS = 0.12


def clamp(name: str, log_value: float) -> float:
    """Keep the logarithm of a constant inside its bounds, smoothly.

    A hard clip would have no slope beyond a bound, and a fit would wander there.

    Args:
        name: the constant.
        log_value: logarithm before the bound.

    Returns:
        Logarithm within `BOUNDS[name]`, equal to `log_value` away from them.
    """
    low, high = _LOG_BOUNDS[name]
    w = _SOFTNESS
    if log_value > high - 6 * w:
        log_value = high - w * math.log1p(math.exp(min((high - log_value) / w, 50.0)))
    if log_value < low + 6 * w:
        log_value = low + w * math.log1p(math.exp(min((log_value - low) / w, 50.0)))
    return log_value


_LOG_BOUNDS = {name: (math.log(low), math.log(high)) for name, (low, high) in BOUNDS.items()}


# Achieved over nominal peak of large products: measured where the catalog has a measurement
# (MAMF tables of ml-engineering; 8192^3 on v6e; TPU recipes on TPU7x), else by its family.
_MATMUL_PRIOR: Mapping[str, float] = {
    "v100": 0.75,
    "v100-16": 0.75,
    "a100": 0.87,
    "a100-40": 0.87,
    "h100": 0.8,
    "h100-hbm2e": 0.66,
    "h200": 0.8,
    "h800": 0.8,
    "b200": 0.78,
    "b300": 0.78,
    "gb200": 0.73,
    "gb300": 0.73,
    "mi300x": 0.51,
    "mi250x": 0.55,
    "v6e": 0.9,
    "tpu7x": 0.83,
    "cpu": 0.6,
}
# Devices that share one hardware effect: the same chip with other memory or cooling.
FAMILIES: Mapping[str, str] = {
    "v100-16": "v100",
    "a100-40": "a100",
    "h200": "h100",
    "h800": "h100",
    "h100-hbm2e": "h100",
    "b300": "b200",
    "gb300": "gb200",
}


def family(device: str) -> str:
    """Name under which a device's hardware effect is kept."""
    return FAMILIES.get(device, device)


def prior_constants(device: str, kind: str, stack_name: str) -> Constants:
    """Constants before any run is seen.

    Args:
        device: name in the catalog.
        kind: "tpu", "gpu" or "cpu".
        stack_name: name in `STACKS`.
    """
    values: dict[str, float] = dict(stack(stack_name).prior)
    values["matmul"] = _MATMUL_PRIOR.get(device, 0.85 if kind == "tpu" else 0.75)
    if kind == "tpu":
        # No host in the loop; a systolic array fills within a few thousand cycles.
        values |= {"ramp_s": 3e-6, "up": 0.85, "up_latency_s": 1e-5, "attention": 0.4}
    return Constants(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Effects on the logarithm of each constant, as shipped.

    Attributes:
        hardware: family -> constant -> effect.
        software: stack -> constant -> effect.
        site: site -> constant -> effect.
        memory: stack or site -> memory constants.
        width: constant -> posterior standard deviation of its logarithm on a seen platform.
        fitted_on: groups of runs that were used.
        provenance: how and when it was made.
    """

    hardware: Mapping[str, Mapping[str, float]]
    software: Mapping[str, Mapping[str, float]]
    site: Mapping[str, Mapping[str, float]]
    memory: Mapping[str, MemoryConstants]
    width: Mapping[str, float]
    fitted_on: tuple[str, ...]
    provenance: Mapping[str, Any]

    def constants(self, device: str, kind: str, stack_name: str, site: str = "") -> Constants:
        """Constants of one platform.

        Args:
            device: name in the catalog.
            kind: "tpu", "gpu" or "cpu".
            stack_name: name in `STACKS`.
            site: a known site, or "".
        """
        base = prior_constants(device, kind, stack_name)
        effects = (
            self.hardware.get(family(device), {}),
            self.software.get(stack_name, {}),
            self.site.get(site, {}),
        )
        values: dict[str, float] = {}
        for name in NAMES:
            shift = sum(effect.get(name, 0.0) for effect in effects)
            values[name] = math.exp(clamp(name, math.log(getattr(base, name)) + shift))
        return Constants(**values)

    def memory_constants(self, stack_name: str, site: str = "") -> MemoryConstants:
        """Memory constants of a site, of its stack, or the stack's prior."""
        for name in (site, stack_name):
            if name in self.memory:
                return self.memory[name]
        return stack(stack_name).memory


@cache
def shipped_constants() -> Fitted:
    """The constants in the package's data file."""
    text = (
        resources.files("autoshard.cost_model").joinpath("data/constants.json").read_text("utf-8")
    )
    document = json.loads(text)
    return Fitted(
        hardware=document["hardware"],
        software=document["software"],
        site=document["site"],
        memory={name: MemoryConstants(**row) for name, row in document["memory"].items()},
        width=document["width"],
        fitted_on=tuple(document["fitted_on"]),
        provenance=document["provenance"],
    )


def with_changes(constants: Constants, changes: Mapping[str, float]) -> Constants:
    """Replace some constants.

    Raises:
        InvalidFieldError: a name that is no constant.
    """
    for name in changes:
        if name not in NAMES:
            raise InvalidFieldError(f"constants.{name}", changes[name], ", ".join(NAMES))
    return replace(constants, **changes)
