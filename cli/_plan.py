"""`autoshard plan`: how a model's train step would be sharded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from autoshard.cli._options import ModelOptions, option
from autoshard.errors import ExitCode

if TYPE_CHECKING:
    from autoshard.lowering.ahead import Compilation


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelOptions):
    """Show how a model's train step is sharded, and why.

    Plans the loss, the gradient and the AdamW update. Nothing is allocated, so models of any size
    can be planned on any machine.

    With --topology the devices need not be there: their compiler runs in a process of its own, and
    says how much memory a device needs. Exits with 1 if that, or --chip or --memory, is too little.

    Example: autoshard plan gpt2-medium --topology v5e:2x4 --strategy zero3+tensor
    --mesh data=2,model=4 --out plan.json

    Attributes:
        seq: Tokens per sequence.
        topology: Plan and compile for these devices: v5e:2x4, v5e:16x16*4, h100:4x8, cpu:8.
        no_compile: With --topology, plan only.
        timeout: Seconds that the compiler of --topology may take.
        host_memory: Memory of this machine that the compiler may take, for example 16GB.
        chip: Judge the plan against the memory of this chip.
        memory: Judge the plan against this much memory per device, for example 16GB.
        out: Write the plan to this file, for train --plan and autoshard.load_plan.
        every_leaf: Give each array its own row; those that differ in a layer's number only share
            one otherwise.
        json: Print one JSON object instead of the table.
    """

    seq: Annotated[int | None, option("T", "the published model's length")] = None
    topology: Annotated[str | None, option("DEVICE:SHAPE", "the devices there are")] = None
    no_compile: bool = False
    timeout: Annotated[float, arg(metavar="S")] = 1800.0
    host_memory: Annotated[str | None, option("SIZE", "nine tenths of it")] = None
    chip: Annotated[str | None, option("NAME", "that of --topology, or this device")] = None
    memory: Annotated[str | None, option("SIZE", "that of the chip")] = None
    out: Annotated[Path | None, option("FILE", "none")] = None
    every_leaf: bool = False
    json: bool = False

    def run(self) -> int:
        """Plans, compiles where that was asked for, and prints."""
        self.check_positive("batch", "seq", "emulate", "timeout")
        from autoshard.cli._budget import find_budget, parse_bytes
        from autoshard.cli._devices import start_devices

        start_devices(self.emulate)
        host_memory = None if self.host_memory is None else int(parse_bytes(self.host_memory))
        budget = find_budget(self.memory, self.chip, self.topology)

        from autoshard.cli import _output
        from autoshard.cli._progress import status
        from autoshard.cli._subject import open_subject

        compiles = self.topology is not None and not self.no_compile
        if compiles:
            self._check_compiler()
        subject = open_subject(self, seq=self.seq)
        with status("planning"):
            plan = subject.plan(self.topology)
        if self.out is not None:
            plan.save(self.out)
        if not self.json:
            _output.print_plan(plan, every_leaf=self.every_leaf)
        compilation = self._compile(subject, host_memory) if compiles else None
        verdict = _output.judge(plan, budget, compilation)
        if self.json:
            facts = {"topology": self.topology, "out": str(self.out) if self.out else None}
            _output.print_json(
                {"model": self.model, **_output.plan_as_json(plan, verdict), **facts}
            )
        else:
            _output.print_verdict(verdict)
            if self.out is not None:
                _output.print_line(f"written to {self.out}")
        return ExitCode.CHECK_FAILED if budget.asked and verdict.fits is False else ExitCode.OK

    def _check_compiler(self) -> None:
        """What is missing shows before a large model is planned."""
        from autoshard.lowering.ahead import check_compiler, parse_target

        check_compiler(parse_target(self.topology or ""))

    def _compile(self, subject: Any, host_memory: int | None) -> "Compilation":
        from autoshard.cli._progress import status
        from autoshard.lowering.ahead import Limits

        limits = Limits(timeout_s=self.timeout, memory_bytes=host_memory)
        with status(f"compiling for {self.topology}"):
            return subject.compile(self.topology, limits)
