"""`autoshard ckpt`: everything that is done to checkpoints without the model's code."""

import functools
import operator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from autoshard.cli import _ckpt_keep, _ckpt_look
from autoshard.cli._ckpt_convert import Convert, Export, Import, Layouts

COMMANDS: dict[str, Any] = {
    "ls": _ckpt_look.List,
    "show": _ckpt_look.Show,
    "verify": _ckpt_look.Verify,
    "diff": _ckpt_look.Diff,
    "scrub": _ckpt_keep.Scrub,
    "prune": _ckpt_keep.Prune,
    "compact": _ckpt_keep.Compact,
    "repair": _ckpt_keep.Repair,
    "convert": Convert,
    "import": Import,
    "export": Export,
    "layouts": Layouts,
}


def _commands() -> Any:
    """A union of the commands, each with its first line."""
    subcommands: list[Any] = [
        Annotated[cls, tyro.conf.subcommand(name, description=cls.__doc__.partition("\n")[0])]
        for name, cls in COMMANDS.items()
    ]
    return functools.reduce(operator.or_, subcommands)


@dataclass(frozen=True, slots=True)
class Ckpt:
    """List, check, mend, convert, import and export checkpoints; no model code is needed.

    Attributes:
        command: What to do.
    """

    command: Any

    def run(self) -> int:
        """Does it."""
        return int(self.command.run())


Ckpt.__annotations__["command"] = _commands()
