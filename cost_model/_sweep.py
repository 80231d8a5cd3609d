"""All degrees of parallelism that a topology admits, priced and ranked."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._check import positive_int
from ._estimate import resolve, uncertainty
from ._memory import Memory, training_memory
from ._meshlinks import step_links
from ._parallel import RECOMPUTE, Parallelism, Precision
from ._profile import Profile
from ._step import StepTime, step_time
from ._topology import Topology, parse_topology
from ._transformer import Transformer, model
from .errors import InvalidFieldError, NothingFitsError, PlacementError


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration of a sweep.

    Attributes:
        plan: degrees.
        step: seconds by term.
        memory: bytes by part.
    """

    plan: Parallelism
    step: StepTime
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Configurations, the fastest first.

    Attributes:
        model: what is trained.
        topology: where.
        global_batch: sequences per step.
        tried: number of configurations priced.
        ranked: those that fit, by step time.
        rejected: number of those that do not fit.
        uncertainty: relative standard deviation of a step time.
    """

    model: Transformer
    topology: Topology
    global_batch: int
    tried: int
    ranked: tuple[Candidate, ...]
    rejected: int
    uncertainty: float

    @property
    def best(self) -> Candidate:
        """The fastest configuration that fits."""
        return self.ranked[0]

    def pareto(self) -> list[Candidate]:
        """Configurations that no other beats in both time and memory, the fastest first."""
        front: list[Candidate] = []
        least = math.inf
        for candidate in self.ranked:
            if candidate.memory.bytes < least:
                least = candidate.memory.bytes
                front.append(candidate)
        return front

    def to_dict(self, limit: int = 20) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.model.name,
            "topology": str(self.topology),
            "devices": self.topology.devices,
            "global_batch": self.global_batch,
            "tried": self.tried,
            "fitting": len(self.ranked),
            "rejected": self.rejected,
            "step_time_relative_sd": self.uncertainty,
            "ranked": [_row(candidate) for candidate in self.ranked[:limit]],
            "pareto": [_row(candidate) for candidate in self.pareto()],
        }


def _row(candidate: Candidate) -> dict[str, Any]:
    plan = candidate.plan
    return {
        **describe_plan(plan),
        "step_time_s": candidate.step.seconds,
        "memory_bytes": candidate.memory.bytes,
        "bubble": candidate.step.bubble,
        "terms_s": candidate.step.terms,
    }


def describe_plan(plan: Parallelism) -> dict[str, Any]:
    """The settings of a plan, without defaults that say nothing."""
    return {
        "tp": plan.tp,
        "pp": plan.pp,
        "dp": plan.dp,
        "cp": plan.cp,
        "ep": plan.ep,
        "vpp": plan.vpp,
        "zero": plan.zero,
        "microbatch": plan.microbatch,
        "recompute": plan.recompute,
        "schedule": plan.schedule,
    }


def shown_settings(plan: Parallelism) -> dict[str, Any]:
    """`describe_plan` for people: degrees of one and defaults left out."""
    shown = {k: v for k, v in describe_plan(plan).items() if v not in (1, "none") or k == "zero"}
    if plan.pp == 1:
        shown.pop("schedule", None)
    return shown


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def configurations(
    model: Transformer,
    topology: Topology,
    global_batch: int,
    *,
    microbatches: Sequence[int] = (1, 2, 4, 8),
    recompute: Sequence[str] = RECOMPUTE,
    zeros: Sequence[int] = (0, 1, 2, 3),
    max_tp: int | None = None,
    max_pp: int = 64,
    max_cp: int = 8,
    fixed: Mapping[str, int] | None = None,
) -> Iterator[Parallelism]:
    """Enumerate the admissible degrees.

    Tensor parallelism stays inside a scale-up domain (or on a torus): the published runs with it
    across nodes are two to three times slower.

    Args:
        model: what is trained.
        topology: where.
        global_batch: sequences per step.
        microbatches: microbatch sizes to try.
        recompute: recomputation policies to try.
        zeros: ZeRO stages to try.
        max_tp: largest tensor-parallel degree.
        max_pp: most pipeline stages.
        max_cp: largest context-parallel degree; only for sequences of 16384 tokens or more.
        fixed: degrees that are given, e.g. {"tp": 8}.

    Yields:
        Plans that pass every check except memory.
    """
    given = dict(fixed or {})
    devices = topology.devices
    domain = topology.device.scale_up_domain if not topology.torus else 16
    tp_limit = min(max_tp or domain, devices)
    cp_limit = max_cp if model.seq >= 16384 else 1
    for tp in _divisors(devices):
        if tp > tp_limit or model.heads % tp or tp != given.get("tp", tp):
            continue
        for pp in _divisors(devices // tp):
            if pp > min(max_pp, model.layers) or pp != given.get("pp", pp):
                continue
            for cp in _divisors(devices // (tp * pp)):
                if cp > given.get("cp", cp_limit) or cp != given.get("cp", cp):
                    continue
                dp = devices // (tp * pp * cp)
                if dp > global_batch or global_batch % dp or dp != given.get("dp", dp):
                    continue
                yield from _settings(
                    model, tp, pp, cp, dp, global_batch, microbatches, recompute, zeros, given
                )


def _settings(
    model: Transformer,
    tp: int,
    pp: int,
    cp: int,
    dp: int,
    global_batch: int,
    microbatches: Sequence[int],
    recompute: Sequence[str],
    zeros: Sequence[int],
    given: Mapping[str, int],
) -> Iterator[Parallelism]:
    per_replica = global_batch // dp
    stages = zeros if dp * cp > 1 else (0,)
    per_stage = model.layers // pp
    depths = [v for v in (1, 2, 4) if pp > 1 and per_stage % v == 0] or [1]
    experts = [1]
    if model.experts:
        experts = [e for e in _divisors(dp * cp) if model.experts % e == 0]
        experts = sorted({experts[-1], experts[len(experts) // 2], 1})
    for microbatch in microbatches:
        if per_replica % microbatch or microbatch != given.get("microbatch", microbatch):
            continue
        rounds = per_replica // microbatch
        for vpp in depths:
            if (vpp > 1 and rounds % pp) or vpp != given.get("vpp", vpp):
                continue
            for ep in experts:
                if ep != given.get("ep", ep):
                    continue
                for zero in stages:
                    if zero != given.get("zero", zero) or (zero == 3 and pp > 1):
                        continue
                    for policy in recompute:
                        yield Parallelism(
                            tp=tp,
                            pp=pp,
                            cp=cp,
                            dp=dp,
                            ep=ep,
                            vpp=vpp,
                            zero=zero,
                            microbatch=microbatch,
                            sequence_parallel=tp > 1,
                            recompute=policy,  # pyright: ignore[reportArgumentType]
                        )


def sweep(
    what: Transformer | str,
    topology: Topology | str,
    *,
    global_batch: int,
    precision: Precision = "bf16",
    stack: str | None = None,
    profile: Profile | None = None,
    limit: int = 100_000,
    **choices: Any,
) -> Sweep:
    """Price every admissible configuration and rank those that fit.

    Args:
        what: a model or the name of a preset.
        topology: devices, or text.
        global_batch: sequences per step.
        precision: arithmetic.
        stack: software.
        profile: a calibration of the devices at hand.
        limit: most configurations to price.
        **choices: passed to `configurations`.

    Returns:
        The sweep.

    Raises:
        NothingFitsError: no configuration fits.
        InvalidFieldError: no configuration is admissible.
    """
    network = model(what) if isinstance(what, str) else what
    place = parse_topology(topology) if isinstance(topology, str) else topology
    positive_int("global_batch", global_batch)
    software, constants, memory_constants, _ = resolve(place, stack, None, profile)
    device = place.device
    tables = profile.tables() if profile is not None else None
    found: list[Candidate] = []
    tried, smallest = 0, math.inf
    for plan in configurations(network, place, global_batch, **choices):
        if tried >= limit:
            break
        rounds = global_batch // plan.dp // plan.microbatch
        memory = training_memory(
            network,
            plan,
            software,
            microbatches=rounds,
            precision=precision,
            capacity_bytes=device.hbm_bytes,
            constants=memory_constants,
        )
        tried += 1
        smallest = min(smallest, memory.bytes)
        if not memory.fits:
            continue
        try:
            links = step_links(place, plan, constants, tables)
        except PlacementError:
            continue
        step = step_time(
            network,
            place,
            plan,
            links,
            software,
            constants,
            microbatches=rounds,
            precision=precision,
        )
        found.append(Candidate(plan, step, memory))
    if not tried:
        raise InvalidFieldError(
            "global_batch",
            global_batch,
            f"a multiple of dp for some dp that divides {place.devices} devices",
            "No configuration is admissible.",
        )
    if not found:
        raise NothingFitsError(tried, smallest, device.hbm_bytes)
    found.sort(key=lambda candidate: (candidate.step.seconds, candidate.memory.bytes))
    return Sweep(
        model=network,
        topology=place,
        global_batch=global_batch,
        tried=tried,
        ranked=tuple(found),
        rejected=tried - len(found),
        uncertainty=uncertainty(device.name, software.name),
    )
