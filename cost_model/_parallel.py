"""How a training step is split: the degrees, and the settings that go with them."""

import math
from dataclasses import dataclass
from typing import Literal

from ._check import one_of, positive_int
from ._transformer import Transformer
from .errors import ContradictionError, DegreesMismatchError, InvalidFieldError

Recompute = Literal["none", "selective", "save_qkv", "full"]
Precision = Literal["fp32", "bf16", "fp16", "fp8", "int8", "fp4"]
Schedule = Literal["gpipe", "1f1b", "interleaved", "circular", "zb-h1", "zb-h2"]

RECOMPUTE = ("none", "selective", "save_qkv", "full")
PRECISION = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4")
SCHEDULES = ("gpipe", "1f1b", "interleaved", "circular", "zb-h1", "zb-h2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Degrees of parallelism and what goes with them.

    The mesh is (pp, dp, cp, tp), the last varying fastest; experts are spread over `ep` of the
    dp x cp ranks. Multi-slice TPU jobs put `dp` over the slices.

    Attributes:
        tp: tensor parallel degree.
        pp: pipeline stages.
        dp: data parallel degree (replicas or shards of the batch).
        cp: context parallel degree (the sequence in ring attention).
        ep: expert parallel degree; divides dp x cp.
        vpp: virtual stages per stage (interleaving).
        zero: what is sharded over dp: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights.
        fsdp: ranks that share one copy of the weights with zero=3; 0: all of dp. Smaller means
            replicas of shards (HSDP, or data parallelism between slices).
        microbatch: sequences per microbatch and replica.
        sequence_parallel: whether activations between tensor-parallel blocks are split over tp.
        recompute: activations rebuilt in the backward pass: none, the attention core, all but
            queries, keys and values (MaxText's ``save_qkv_proj``), or all.
        schedule: pipeline schedule; default: "interleaved" with vpp > 1, else "1f1b".
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    vpp: int = 1
    zero: int = 0
    fsdp: int = 0
    microbatch: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "cp", "ep", "vpp", "microbatch"):
            positive_int(name, getattr(self, name))
        one_of("zero", self.zero, (0, 1, 2, 3))
        one_of("recompute", self.recompute, RECOMPUTE)
        if (self.dp * self.cp * self.tp) % self.ep:
            raise InvalidFieldError(
                "ep", self.ep, f"a divisor of dp x cp x tp = {self.dp * self.cp * self.tp}"
            )
        if self.fsdp and self.dp * self.cp % self.fsdp:
            raise InvalidFieldError("fsdp", self.fsdp, f"a divisor of dp x cp={self.dp * self.cp}")
        if self.fsdp and self.zero != 3:
            raise ContradictionError(
                [f"fsdp={self.fsdp}", f"zero={self.zero}"],
                "only zero=3 shards the weights",
                "Set zero=3",
            )
        if self.vpp > 1 and self.pp == 1:
            raise ContradictionError(
                [f"vpp={self.vpp}", "pp=1"], "one stage has nothing to interleave", "Set vpp=1"
            )
        if self.sequence_parallel and self.tp == 1:
            object.__setattr__(self, "sequence_parallel", False)
        schedule = self.schedule or ("interleaved" if self.vpp > 1 else "1f1b")
        one_of("schedule", schedule, SCHEDULES)
        if schedule == "interleaved" and self.vpp == 1 and self.pp > 1:
            raise ContradictionError(
                ["schedule='interleaved'", "vpp=1"],
                "interleaving needs virtual stages",
                "Set vpp to 2 or more",
            )
        if schedule in ("gpipe", "zb-h1", "zb-h2") and self.vpp > 1:
            raise ContradictionError(
                [f"schedule={schedule!r}", f"vpp={self.vpp}"],
                "this schedule has one stage per rank",
                "Set vpp=1 or schedule='interleaved'",
            )
        object.__setattr__(self, "schedule", schedule)

    @property
    def devices(self) -> int:
        """Devices that the degrees need."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def weight_shards(self) -> int:
        """Ranks that share one copy of the weights beyond tp and pp."""
        if self.zero < 3:
            return 1
        return self.fsdp or self.dp * self.cp

    def check(self, model: Transformer, devices: int, global_batch: int) -> int:
        """Check the degrees against model, devices and batch.

        Args:
            model: what is trained.
            devices: devices of the topology.
            global_batch: sequences per step.

        Returns:
            Microbatches per step and replica.

        Raises:
            DegreesMismatchError: the degrees do not multiply to the devices.
            InvalidFieldError: a degree that does not divide what it splits.
        """
        if self.devices != devices:
            rest = self.tp * self.pp * self.cp
            mend = (
                f"Set dp={devices // rest}."
                if devices % rest == 0
                else f"tp x pp x cp must divide {devices}."
            )
            raise DegreesMismatchError(
                {"tp": self.tp, "pp": self.pp, "dp": self.dp, "cp": self.cp}, devices, mend
            )
        positive_int("global_batch", global_batch)
        if self.tp > model.heads or model.heads % self.tp:
            divisors = [d for d in range(1, model.heads + 1) if model.heads % d == 0]
            raise InvalidFieldError("tp", self.tp, f"a divisor of heads={model.heads}: {divisors}")
        if self.pp * self.vpp > model.layers:
            raise InvalidFieldError(
                "pp", self.pp, f"pp x vpp up to layers={model.layers}", f"vpp={self.vpp}."
            )
        if self.ep > 1 and not model.experts:
            raise ContradictionError(
                [f"ep={self.ep}", "experts=0"], "a dense model has no experts", "Set ep=1"
            )
        if self.ep > 1 and model.experts % self.ep:
            raise InvalidFieldError("ep", self.ep, f"a divisor of experts={model.experts}")
        per_replica = global_batch / self.dp
        if per_replica < self.microbatch:
            raise InvalidFieldError(
                "microbatch",
                self.microbatch,
                f"up to global_batch / dp = {per_replica:g}",
            )
        return math.ceil(per_replica / self.microbatch - 1e-9)
