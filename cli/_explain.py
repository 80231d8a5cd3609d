"""`autoshard explain`: why one array is sharded as it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from autoshard.cli._options import ModelOptions, option
from autoshard.errors import ExitCode

if TYPE_CHECKING:
    from autoshard.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """Say of one array how it is sharded, and why.

    The array is an argument or result of the train step, by its path or an end of it that no other
    has. It is looked up in a plan file, or in the plan of a model.

    Example: autoshard explain wte/embedding gpt2 --emulate 8 --strategy zero3+tensor
    --mesh data=2,model=4

    Attributes:
        path: Path of an array, for example params/h_0/attn/query/kernel.
        plan: Look it up in this file instead of planning a model.
        seq: Tokens per sequence.
        topology: Plan for these devices: v5e:2x4, h100:4x8.
        json: Print one JSON object instead of text.
        options: The model and how to plan it.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    plan: Annotated[Path | None, option("FILE", "none")] = None
    seq: Annotated[int | None, option("T", "the published model's length")] = None
    topology: Annotated[str | None, option("DEVICE:SHAPE", "the devices there are")] = None
    json: bool = False
    options: ModelOptions = field(default_factory=ModelOptions)

    def run(self) -> int:
        """Looks it up and prints."""
        from autoshard.plan import Plan

        found = Plan.load(self.plan) if self.plan is not None else self._planned()
        leaf = found.leaf(self.path)
        if self.json:
            from autoshard.cli._output import leaf_as_json, print_json

            print_json({"mesh": found.mesh_shape, **leaf_as_json(leaf)})
        else:
            print(found.explain(leaf.path), end="")
        return ExitCode.OK

    def _planned(self) -> "Plan":
        self.options.check_positive("batch", "emulate")
        from autoshard.cli._devices import start_devices
        from autoshard.cli._progress import status

        start_devices(self.options.emulate)
        from autoshard.cli._subject import open_subject

        subject = open_subject(self.options, seq=self.seq)
        with status("planning"):
            return subject.plan(self.topology)
