"""Errors about what the compiler gave."""

from autoshard.errors._base import AutoshardError, ExitCode


class HloFormatError(AutoshardError):
    """Text that cannot be read as optimized HLO.

    Args:
        reason: What is wrong with it.
        line_number: Of the line at fault, from 1, where there is one.
        line: That line.
    """

    exit_code = ExitCode.CORRUPT_DATA

    def __init__(self, reason: str, line_number: int | None = None, line: str = "") -> None:
        self.reason = reason
        self.line_number = line_number
        self.line = line
        where = "" if line_number is None else f"line {line_number}: "
        shown = f"\n    {line.strip():.120}" if line else ""
        super().__init__(
            f"cannot read HLO: {where}{reason}{shown}\n"
            "Mend it: pass what compiled.as_text() returns, unchanged"
        )


class HloMeshError(AutoshardError):
    """A mesh that is none, or not the one that a program is compiled for."""

    exit_code = ExitCode.MISMATCH


class HloLoopError(AutoshardError):
    """A sum over collectives that needs a trip count which the program does not tell.

    Args:
        name: The collective's name in the HLO text.
        op_name: Its JAX name stack.
    """

    def __init__(self, name: str, op_name: str) -> None:
        self.name = name
        self.op_name = op_name
        super().__init__(
            f"%{name} ({op_name}) runs in a loop whose trip count depends on data.\n"
            "Mend it: traffic_by_axes(found, unknown_count=1)"
        )


class MemoryStatsError(AutoshardError):
    """A backend that does not tell how much memory a program takes.

    Args:
        platform: The backend.
    """

    def __init__(self, platform: str) -> None:
        self.platform = platform
        super().__init__(
            f"the {platform} backend reports no memory analysis for this program.\n"
            "Mend it: compile for an attached device, or ahead of time for a TPU"
        )
