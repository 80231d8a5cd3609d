"""What every command that plans a model asks for."""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from autoshard.errors import UsageError


def option(metavar: str, default: str) -> Any:
    """An optional flag's placeholder, and what its absence means."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model, on what, sharded how.

    Attributes:
        model: Preset (gpt-small, gpt2-medium, llama-3-8b, resnet-50, ...; an unknown name lists
            them all), or package.module:callable of your own, which returns (step, args) or a
            models.ModelSpec; --set and --batch are its arguments.
        strategy: How to shard: dp, zero3, tensor, or a sum such as zero3+tensor.
        mesh: Axes and sizes, for example data=2,model=4; -1 stands for what is left.
        emulate: Let the CPU play this many devices (in each process).
        batch: Examples per step, over all devices.
        set: Overrides of the model's configuration, for example --set layers=6 dtype=bfloat16.
    """

    model: Annotated[Positional[str], arg(metavar="[MODEL]")] = "gpt-small"
    strategy: Annotated[str | None, option("TERM+...", "zero3, or the plan's")] = None
    mesh: Annotated[str | None, option("AXIS=N,...", "data=-1")] = None
    emulate: Annotated[int | None, option("N", "the devices there are")] = None
    batch: Annotated[int, arg(metavar="B")] = 16
    set: Annotated[tuple[str, ...], option("FIELD=VALUE ...", "none")] = ()

    def check_positive(self, *fields: str) -> None:
        """Raises `UsageError` unless each of the named options is absent or above zero."""
        for field in fields:
            value = getattr(self, field)
            if value is not None and value <= 0:
                flag = field.replace("_", "-")
                raise UsageError(f"--{flag} {value} is not above zero", f"--{flag} 1")
