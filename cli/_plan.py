"""`autoshard plan`: how a model's train step would be sharded."""

from dataclasses import dataclass
from typing import Annotated

from autoshard.cli._options import ModelOptions, option
from autoshard.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelOptions):
    """Show how a model's train step is sharded, and why.

    Plans the loss, the gradient and the AdamW update. Nothing is allocated, so models of any size
    can be planned on any machine.

    Attributes:
        seq: Tokens per sequence.
        every_leaf: Give each array its own row; those that differ in a layer's number only share
            one otherwise.
        json: Print one JSON object instead of the table.
    """

    seq: Annotated[int | None, option("T", "the published model's length")] = None
    every_leaf: bool = False
    json: bool = False

    def run(self) -> int:
        """Plans and prints."""
        self.check_positive("batch", "seq", "emulate")
        from autoshard.cli._devices import device_memory_bytes, start_devices

        start_devices(self.emulate)
        import optax

        from autoshard.cli import _output
        from autoshard.cli._progress import status
        from autoshard.cli._session import build_model, open_session

        session = open_session(self, build_model(self), optax.adamw(1e-3), seq=self.seq)
        with status("planning"):
            plan = session.plan()
        memory = device_memory_bytes()
        if self.json:
            _output.print_json({"model": self.model, **_output.plan_as_json(plan, memory)})
        else:
            _output.print_plan(plan, memory, every_leaf=self.every_leaf)
        return ExitCode.OK
