"""Published runs as the predictor's inputs.

A report names its hardware, network and software in its own words; this module translates them,
and nothing else: no number is corrected here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .._constants import Constants, MemoryConstants, Stack, stack
from .._hardware import Device
from .._memory import Memory, training_memory
from .._meshlinks import step_links
from .._parallel import Parallelism, Precision
from .._step import StepTime, step_time
from .._topology import Topology, cluster, default_topology, torus
from .._transformer import Transformer
from ..errors import InvalidFieldError
from ._words import device_of, devices_per_card, network_bytes_per_s, recompute_of, stack_of

_PRECISION: Mapping[str, Precision] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp16/bf16": "bf16",
    "int8": "int8",
    "nvfp4": "fp4",
    "fp4": "fp4",
}


# Without a pipeline, a replica's share of up to this many sequences is run at once.
WHOLE_BATCH = 16
# How close a doubled width must come to the stated number of parameters.
WIDTH_TOLERANCE = 0.08


@dataclass(frozen=True, slots=True)
class Light:
    """What a run may have done to need less memory than its stated plan.

    Attributes:
        plan: the lightest admissible plan.
        offloaded: whether saved activations are kept in host memory.
    """

    plan: Parallelism
    offloaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One published run, ready to be predicted.

    Attributes:
        id: the report's row.
        group: the report.
        site: cluster and software release; runs of one site share what is peculiar to it.
        model: what was trained.
        topology: where.
        plan: degrees.
        global_batch: sequences per step.
        precision: arithmetic.
        stack: software.
        free: which of ("microbatch", "vpp") the report leaves open: the best is assumed.
        step_time_s: measured; None for runs out of memory.
        memory_bytes: measured peak per device, or None.
        oom: whether the run ran out of memory.
        plan_unknown: whether the report leaves tp, pp or dp open (automatic plans).
        planner: how the report names what chose the plan, where it states none.
        light: settings that need the least memory among those the report leaves open
            (recomputation, what ZeRO shards) or names loosely (offloaded activations); they judge
            whether a run fits, not how long it takes. None: everything is stated.
        first_stage: whether the reported memory is that of rank 0, hence of the first stage.
        notes: what else the report says.
    """

    id: str
    group: str
    site: str
    model: Transformer
    topology: Topology
    plan: Parallelism
    global_batch: int
    precision: Precision
    stack: Stack
    free: tuple[str, ...] = ()
    step_time_s: float | None = None
    memory_bytes: float | None = None
    oom: bool = False
    plan_unknown: bool = False
    first_stage: bool = False
    planner: str = ""
    light: Light | None = None
    notes: str = field(default="", repr=False)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What makes two runs near duplicates: the network they train."""
        m = self.model
        return (m.hidden, m.ffn, m.gated, m.experts, m.layers)

    @property
    def family(self) -> tuple[Any, ...]:
        """What makes two runs comparable choices: model, devices, batch, precision, release."""
        m = self.model
        shape = (m.hidden, m.layers, m.heads, m.ffn, m.seq)
        return (
            self.group,
            self.site,
            *shape,
            self.topology.devices,
            self.global_batch,
            self.precision,
            self.plan.recompute,
        )

    @property
    def model_flops(self) -> float:
        """Model FLOPs of one step (no recomputation, full attention)."""
        tokens = self.global_batch * self.model.seq
        return tokens * self.model.train_flops_per_token()

    def predict(self, constants: Constants) -> StepTime:
        """Predict with given constants; open degrees take their best value."""
        plans = [self.plan]
        if "microbatch" in self.free:
            most = max(1, self.global_batch // self.plan.dp)
            sizes = [b for b in (1, 2, 4, 8, 16) if b <= most]
            plans = [replace(plan, microbatch=b) for plan in plans for b in sizes]
        if "vpp" in self.free:
            per_stage = self.model.layers // self.plan.pp
            depths = [v for v in (1, 2, 3, 4, 6) if per_stage % v == 0 and v <= per_stage]
            plans = [replace(plan, vpp=v, schedule=None) for plan in plans for v in depths]
        best: StepTime | None = None
        for plan in plans:
            found = step_time(
                self.model,
                self.topology,
                plan,
                step_links(self.topology, plan, constants),
                self.stack,
                constants,
                microbatches=math.ceil(self.global_batch / plan.dp / plan.microbatch - 1e-9),
                precision=self.precision,
            )
            if best is None or found.seconds < best.seconds:
                best = found
        assert best is not None
        return best

    def predict_memory(
        self,
        constants: MemoryConstants,
        *,
        reported: bool = False,
        light: bool = False,
        plan: Parallelism | None = None,
    ) -> Memory:
        """Predict the peak with given memory constants; open microbatches count as one.

        Args:
            constants: what memory holds beyond the closed forms.
            reported: look at the stage whose memory the report shows, not at the fullest.
            light: take what the report leaves open as light as it may have been.
            plan: another plan than the report's.
        """
        plan = plan or (self.light.plan if light and self.light else self.plan)
        found = training_memory(
            self.model,
            plan,
            self.stack,
            microbatches=math.ceil(self.global_batch / plan.dp / plan.microbatch - 1e-9),
            precision=self.precision,
            capacity_bytes=self.topology.device.hbm_bytes,
            constants=constants,
            stage_only=0 if reported and self.first_stage else None,
        )
        if not (light and self.light and self.light.offloaded):
            return found
        # Two layers' worth is on its way in or out; the rest is in host memory.
        parts = {**found.parts}
        parts["activations"] *= min(1.0, 2 * plan.pp / self.model.layers)
        return replace(found, bytes=sum(parts.values()), parts=parts)


def _model(row: Mapping[str, Any]) -> Transformer:
    m = row["model"]
    tp = row["parallel"].get("tp") or 1
    hidden = m["hidden"]
    heads = m.get("heads")
    if not heads:
        # Not reported: the multiple of tp whose heads come closest to 128 wide.
        choices = [a for a in range(tp, hidden // 32 + 1, tp) if hidden % a == 0]
        if not choices:
            raise InvalidFieldError("parallel.tp", tp, f"a divisor of hidden={hidden}")
        heads = min(choices, key=lambda a: abs(hidden / a - 128))
    moe = m.get("moe") or {}
    values: dict[str, Any] = {}
    if moe:
        values = {
            "experts": moe["experts"],
            "top_k": moe.get("topk", 1),
            "expert_ffn": moe.get("ffn") or m.get("ffn") or 4 * hidden,
            "shared_experts": moe.get("shared", 0) or 0,
            "dense_layers": moe.get("dense_layers", 0),
            "moe_every": moe.get("moe_every") or moe.get("interleave") or 1,
        }
        if row["group"].startswith("alpa"):
            values["moe_every"] = moe.get("moe_every", 2)
        if moe.get("mla"):
            values["latent"] = (1536, 512, 128, 64, 128)
        if moe.get("sliding_window_half_layers"):
            values |= {"window": 128, "window_share": 0.5}
    head_dim = m.get("head_dim") or hidden // heads
    found = Transformer(
        name=m["name"],
        layers=m["layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=m.get("kv_heads") or heads,
        head_dim=int(head_dim),
        ffn=m.get("ffn") or 4 * hidden,
        gated=bool(m.get("gated_ffn")),
        vocab=m.get("vocab") or 50304,
        seq=m["seq"],
        tied=not m.get("gated_ffn"),
        **values,
    )
    stated = m.get("params")
    if moe and stated and found.parameters < 0.7 * stated:
        # Alpa's MoE layers are 8 h wide, as GSPMD's; its tables leave the width out.
        wide = replace(found, ffn=2 * found.ffn, expert_ffn=2 * found.expert_ffn)
        if abs(wide.parameters / stated - 1) < WIDTH_TOLERANCE:
            return wide
    return found


def _topology(row: Mapping[str, Any], device: Device) -> Topology:
    hardware = row["hardware"]
    chips = row["n_devices"]
    if device.kind == "tpu":
        per_chip = device.devices_per_chip
        shape = hardware.get("topology")
        slices = int(hardware.get("slices") or row["parallel"].get("dcn_dp") or 1)
        if shape:
            return torus(device, [int(part) for part in shape.split("x")], slices=slices)
        single = default_topology(device, chips * per_chip // slices)
        if slices == 1 or single.outer is not None:
            return single if slices == 1 else default_topology(device, chips * per_chip)
        return torus(device, single.torus, slices=slices)
    per_node = min(int(hardware.get("devices_per_node") or device.devices_per_host), chips)
    nic = network_bytes_per_s(hardware.get("inter_node"), max(per_node, 1))
    if device.scale_up_domain > device.devices_per_host and device.name.startswith("g"):
        nic = None
    while chips % per_node:
        per_node -= 1
    return cluster(
        device,
        chips // per_node,
        per_node,
        nic_bytes_per_s=nic,
        devices_per_card=devices_per_card(hardware.get("inter_node"), per_node),
    )


def _whole_batch(row: Mapping[str, Any], dp: int) -> bool:
    """Whether one microbatch is all that a replica gets: nothing is accumulated."""
    share = row["global_batch"] / dp
    microbatch = row.get("microbatch")
    return microbatch >= share if microbatch else share <= WHOLE_BATCH


def _light(row: Mapping[str, Any], plan: Parallelism, software: Stack) -> Light | None:
    """The lightest plan that the report's words admit."""
    text = str(row.get("recompute") or "").lower()
    offloaded = "offload" in text
    vague = offloaded or not text or any(word in text for word in ("unknown", "default", "custom"))
    recompute = "full" if vague and plan.recompute != "full" else plan.recompute
    zero = plan.zero
    if row["parallel"].get("zero") is None and zero == 0 and plan.dp * plan.cp > 1:
        # Megatron and DeepSpeed shard the optimizer on request, and few reports say whether.
        zero = 1 if software.name.startswith("megatron") else 0
    light = replace(plan, recompute=recompute, zero=zero)
    return Light(light, offloaded) if offloaded or light != plan else None


def read_run(row: Mapping[str, Any]) -> Run:
    """Translate one row.

    Args:
        row: a row of the published-runs schema.

    Returns:
        The run.

    Raises:
        InvalidFieldError: the row does not say enough to predict it.
    """
    parallel, measured = row["parallel"], row["measured"]
    if not row["model"].get("hidden") or not row["model"].get("layers"):
        raise InvalidFieldError("model.hidden", None, "a row with the model's dimensions")
    for name in ("n_devices", "global_batch"):
        if not row.get(name):
            raise InvalidFieldError(name, row.get(name), "a row that states it")
    device = device_of(row["hardware"]["accel"])
    topology = _topology(row, device)
    model = _model(row)
    tp, pp, cp = (parallel.get(k) or 1 for k in ("tp", "pp", "cp"))
    dp = max(1, topology.devices // (tp * pp * cp))
    zero = parallel.get("zero")
    software = stack_of(row, device)
    if "fp32 grad" in str(row.get("precision")):
        software = replace(software, gradient_memory=6.0)
    if row["group"].startswith("bloom"):
        # The sweep ran with CUDA_LAUNCH_BLOCKING=1, to get around hanging collectives.
        software = replace(software, blocking=True)
    if zero == 3 and software.name.startswith("megatron") and device.name == "a100":
        software = stack("deepspeed-zero3")
    stated = not any(parallel.get(k, 1) is None for k in ("tp", "pp", "dp"))
    if software.name == "alpa" and model.experts:
        # Its MoE runs keep neither a float32 copy nor, without accumulation, gradients: ZeRO-3 of
        # 0.95 B parameters per device takes 10.8 GB in all.
        accumulates = pp > 1 or not stated or not _whole_batch(row, dp)
        kept = software.gradient_memory if accumulates else 0.0
        software = replace(software, optimizer_memory=8.0, gradient_memory=kept)
    free: list[str] = []
    microbatch = row.get("microbatch")
    if not microbatch:
        free.append("microbatch")
        microbatch = 1
        per_device = max(1, row["global_batch"] // dp)
        if pp == 1 and (zero == 3 or per_device <= WHOLE_BATCH):
            # Without a pipeline and with a small batch there is nothing to accumulate.
            free, microbatch = [], per_device
        elif software.name == "torchtitan":
            # Its default is as many microbatches as stages.
            free, microbatch = [], max(1, per_device // pp)
    per_replica = row["global_batch"] / dp
    if device.kind == "tpu" and pp == 1:
        # JAX reports name sequences per chip, and a replica (tp chips) runs its own at once.
        microbatch = per_replica / (row.get("grad_accum") or 1)
    microbatch = max(1, min(int(microbatch), math.ceil(per_replica)))
    schedule_text = str(row.get("schedule") or "").lower()
    vpp = parallel.get("vpp") or 1
    if pp == 1:
        vpp = 1
    vpp = min(vpp, max(1, model.layers // pp))
    if pp > 1 and vpp == 1 and "interleaved" in schedule_text:
        free.append("vpp")
    shards = 0
    if zero == 3:
        named = parallel.get("fsdp")
        whole = dp * cp
        slices = topology.outer.size if topology.outer else 1
        shards = named if named and whole % named == 0 and whole > named > 1 else 0
        if not shards and slices > 1 and whole % slices == 0 and device.kind == "tpu":
            shards = whole // slices
    stage = 1 if zero is None and software.name == "megatron-bridge" else int(zero or 0)
    if stage == 1 and software.name == "megatron-bridge":
        # The report does not tell Megatron's FSDP from its distributed optimizer: weights
        # and gradients that fill the device prove that they are sharded.
        held = model.parameters / (tp * pp) * (2.0 + software.gradient_memory)
        routed = model.routed_parameters / (tp * pp) * (2.0 + software.gradient_memory)
        held -= routed * (1.0 - 1.0 / max(parallel.get("ep") or 1, 1))
        stage = 3 if held > device.hbm_bytes and dp * cp > 1 else stage
    if "SHARD_GRAD_OP" in (row.get("notes") or ""):
        stage = 2
        shards = 0
    elif zero == 3 and dp * cp == 1:
        stage = 0
        shards = 0
    ep = parallel.get("ep") or 1
    if (dp * cp * tp) % ep or (model.experts and model.experts % ep):
        ep = 1
    sequence = parallel.get("sp")
    if sequence is None:
        sequence = tp > 1 and software.name in ("megatron-bridge", "maxtext", "pax", "torchtitan")
    plan = Parallelism(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=ep if model.experts else 1,
        vpp=vpp,
        zero=stage,
        fsdp=shards if stage == 3 else 0,
        microbatch=microbatch,
        sequence_parallel=bool(sequence),
        recompute=recompute_of(row),
    )
    precision = str(row.get("precision") or "bf16").lower()
    found = _PRECISION.get(precision.split(" ")[0])
    if found is None:
        found = "fp8" if "fp8" in precision else "bf16"
    memory = measured.get("peak_mem_gb")
    release = (row.get("source") or {}).get("locator") or ""
    site = f"{row['group']}/{device.name}"
    # A software release moves times by more than a repetition does: it is part of the site.
    version = re.match(r"\d+\.\d+(?:\.\d+)?", release) or re.search(
        r"\bdate (\d\d-\d\d)\b", row.get("notes") or ""
    )
    if version:
        site += "/" + version[0].removeprefix("date ")
    return Run(
        id=row["id"],
        group=row["group"],
        site=site,
        model=model,
        topology=topology,
        plan=plan,
        global_batch=row["global_batch"],
        precision=found,
        stack=software,
        free=tuple(free),
        step_time_s=measured.get("step_time_s"),
        memory_bytes=memory * 1e9 if memory else None,
        oom=bool(measured.get("oom")),
        planner=schedule_text,
        light=_light(row, plan, software),
        plan_unknown=not stated,
        # BigScience read nvidia-smi on the first node, until it took the maximum of all.
        first_stage=software.name.startswith("megatron-deepspeed")
        and "max node" not in (row.get("notes") or ""),
        notes=row.get("notes") or "",
    )
