"""`estimate`: a model, a topology and degrees in; seconds, bytes and reasons out."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ._check import non_negative, positive, positive_int
from ._constants import (
    BOUNDS,
    Constants,
    MemoryConstants,
    Stack,
    shipped_constants,
    stack,
    with_changes,
)
from ._memory import Memory, training_memory
from ._meshlinks import step_links
from ._offload import Offload, offload_time
from ._overlap import local_updates
from ._parallel import PRECISION, Parallelism, Precision
from ._profile import Profile
from ._step import StepTime, step_time
from ._topology import Topology, parse_topology
from ._transformer import Transformer, model
from .errors import InvalidFieldError, PlacementError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """What one training step costs.

    Attributes:
        model: what is trained.
        topology: where.
        plan: degrees.
        global_batch: sequences per step.
        precision: arithmetic.
        step: seconds by term.
        memory: bytes by part on the fullest device.
        tokens_per_s: of the whole job.
        mfu: model FLOPs (three forwards, no recomputation, full attention) over the peak.
        hfu: the same with recomputed FLOPs counted.
        uncertainty: relative standard deviation of the step time, from the fit.
        energy_j: joules per step at board power; 0 if the power is not known.
        price: cost per million tokens, where an hourly price was given.
        notes: what the reader should know.
    """

    model: Transformer
    topology: Topology
    plan: Parallelism
    global_batch: int
    precision: Precision
    step: StepTime
    memory: Memory
    tokens_per_s: float
    mfu: float
    hfu: float
    uncertainty: float
    energy_j: float = 0.0
    price: float | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def step_time_s(self) -> float:
        """Seconds of one step."""
        return self.step.seconds

    @property
    def fits(self) -> bool:
        """Whether the peak fits into device memory."""
        return self.memory.fits

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.model.name,
            "parameters": self.model.parameters,
            "topology": str(self.topology),
            "devices": self.topology.devices,
            "plan": asdict(self.plan),
            "global_batch": self.global_batch,
            "precision": self.precision,
            "step_time_s": self.step.seconds,
            "step_time_relative_sd": self.uncertainty,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_device": self.tokens_per_s / self.topology.devices,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "microbatches": self.step.microbatches,
            "bubble": self.step.bubble,
            "terms_s": self.step.terms,
            "hidden_s": self.step.hidden,
            "memory_bytes": self.memory.bytes,
            "memory_capacity_bytes": self.memory.capacity_bytes,
            "memory_parts_bytes": self.memory.parts,
            "memory_stage": self.memory.stage,
            "fits": self.memory.fits,
            "energy_j": self.energy_j,
            "price_per_million_tokens": self.price,
            "notes": list(self.notes),
        }


def resolve(
    topology: Topology,
    stack_name: str | None,
    constants: Mapping[str, float] | None,
    profile: Profile | None,
    site: str = "",
) -> tuple[Stack, Constants, MemoryConstants, list[str]]:
    """Software, constants and memory constants of a platform, with notes on where they are from.

    Args:
        topology: where.
        stack_name: software; default: "autoshard" on TPUs and CPUs, "generic" on GPUs.
        constants: overrides by name.
        profile: a calibration of the devices at hand; its constants come before the fitted ones.
        site: a known site.
    """
    device = topology.device
    name = stack_name or ("generic" if device.kind == "gpu" else "autoshard")
    software = stack(name)
    fitted = shipped_constants()
    found = fitted.constants(device.name, device.kind, name, site)
    notes: list[str] = []
    if profile is not None:
        found = profile.apply(found)
        notes.append(f"calibrated on {profile.device_kind}, {profile.date}")
    elif device.kind == "cpu":
        notes.append("emulated devices share cores: only the order of plans means something")
    if constants:
        found = with_changes(found, constants)
    return software, found, fitted.memory_constants(name, site), notes


def estimate(
    what: Transformer | str,
    topology: Topology | str,
    plan: Parallelism | None = None,
    *,
    global_batch: int | None = None,
    precision: Precision = "bf16",
    stack: str | None = None,
    site: str = "",
    constants: Mapping[str, float] | None = None,
    profile: Profile | None = None,
    offload: Offload | None = None,
    sync_every: int = 1,
    dollars_per_device_hour: float | None = None,
) -> TrainingEstimate:
    """Price one training step of a transformer.

    Args:
        what: a model or the name of a preset.
        topology: devices, or text as `parse_topology` reads it.
        plan: degrees; default: plain data parallelism over all devices.
        global_batch: sequences per step; default: one microbatch per replica.
        precision: arithmetic of the matrix products.
        stack: software, see `STACKS`.
        site: a site of the fit, e.g. to reproduce a published run.
        constants: overrides of fitted constants by name.
        profile: a calibration of the devices at hand.
        offload: what is kept in host memory or on NVMe.
        sync_every: H of local-update methods (DiLoCo, CO2): gradients cross replicas every H
            steps.
        dollars_per_device_hour: price, for the cost per million tokens.

    Returns:
        The estimate with every term.

    Raises:
        CostModelError: a field that cannot be priced; the message names it and what is valid.

    Example:
        >>> e = estimate("llama3-8b", "h100:8", Parallelism(dp=8, zero=3), global_batch=8)
        >>> 0.1 < e.step_time_s < 10
        True
    """
    network = model(what) if isinstance(what, str) else what
    place = parse_topology(topology) if isinstance(topology, str) else topology
    degrees = plan or Parallelism(dp=place.devices)
    batch = degrees.dp * degrees.microbatch if global_batch is None else global_batch
    if precision not in PRECISION:
        raise InvalidFieldError("precision", precision, ", ".join(PRECISION))
    microbatches = degrees.check(network, place.devices, batch)
    positive_int("sync_every", sync_every)
    software, found, memory_constants, notes = resolve(place, stack, constants, profile, site)
    try:
        links = step_links(place, degrees, found, profile and profile.tables())
    except PlacementError as error:
        raise InvalidFieldError(
            "plan", _degrees(degrees), "degrees that factor the torus", str(error)
        ) from error
    step = step_time(
        network,
        place,
        degrees,
        links,
        software,
        found,
        microbatches=microbatches,
        precision=precision,
    )
    memory = training_memory(
        network,
        degrees,
        software,
        microbatches=microbatches,
        precision=precision,
        capacity_bytes=place.device.hbm_bytes,
        constants=memory_constants,
    )
    if sync_every > 1:
        step = _with_local_updates(step, sync_every)
        notes.append(f"replicas synchronize every {sync_every} steps")
    if offload is not None:
        step, memory = offload_time(step, memory, offload, place.device)
    tokens = batch * network.seq
    seconds = step.seconds
    peak = place.device.peak(precision) * place.devices
    flops = tokens * network.train_flops_per_token()
    executed = tokens * network.train_flops_per_token(recompute=degrees.recompute)
    per_hour = dollars_per_device_hour
    price = None
    if per_hour is not None:
        non_negative("dollars_per_device_hour", per_hour)
        price = per_hour * place.devices * seconds / 3600 / tokens * 1e6
    return TrainingEstimate(
        model=network,
        topology=place,
        plan=degrees,
        global_batch=batch,
        precision=precision,
        step=step,
        memory=memory,
        tokens_per_s=tokens / seconds,
        mfu=flops / seconds / peak,
        hfu=executed / seconds / peak,
        uncertainty=uncertainty(place.device.name, software.name),
        energy_j=place.device.power_w * place.devices * seconds,
        price=price,
        notes=tuple(notes),
    )


def uncertainty(device: str, stack_name: str) -> float:
    """Relative standard deviation of a predicted step time.

    Root mean square of leave-one-shape-out errors where hardware and software were both seen in
    the fit; wider where one or both were not (transfer between clusters alone costs 15 to 35 %).
    """
    fitted = shipped_constants()
    seen = (device in fitted.hardware) + (stack_name in fitted.software)
    return {2: 0.1, 1: 0.18, 0: 0.3}[seen]


def _degrees(plan: Parallelism) -> str:
    return f"pp={plan.pp} dp={plan.dp} cp={plan.cp} tp={plan.tp}"


def _with_local_updates(step: StepTime, every: int) -> StepTime:
    """Spread the gradient exchange over `every` steps."""
    sync = step.terms["data"] + step.hidden.get("data", 0.0)
    alone = step.seconds - step.terms["data"]
    seconds = local_updates(alone, sync, every)
    terms = {**step.terms, "data": seconds - alone}
    return StepTime(
        seconds=seconds,
        terms=terms,
        hidden={**step.hidden, "data": 0.0},
        microbatches=step.microbatches,
        bubble=step.bubble,
    )


def explain_bounds(constants: Constants) -> list[str]:
    """Name the constants that sit at their bounds: such a value is no measurement."""
    out: list[str] = []
    for name, (low, high) in BOUNDS.items():
        value = getattr(constants, name)
        if math.isclose(value, low, rel_tol=0.02) or math.isclose(value, high, rel_tol=0.02):
            out.append(f"{name}={value:.3g} is at its bound")
    return out


def check_positive(field_name: str, value: float) -> float:
    """Return `value` if it is above zero; for commands that read numbers."""
    return positive(field_name, value)
