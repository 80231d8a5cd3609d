"""Errors about compiling for devices that are not there."""

from autoshard.errors._base import AutoshardError, ExitCode


class TopologyError(AutoshardError):
    """A topology that cannot be read, does not exist, or that no compiler here knows.

    Args:
        topology: What was given.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(
        self,
        topology: object,
        problem: str,
        hint: str = "DEVICE:SHAPE, such as v5e:2x4, v5p:4x4x8, h100:4x8 (nodes x GPUs) or cpu:8",
    ) -> None:
        self.topology = topology
        self.problem = problem
        super().__init__(f"topology {topology!r}: {problem}.\nMend it: {hint}")


class CompilerMissingError(AutoshardError):
    """A compiler that is not installed.

    Args:
        topology: What was to be compiled for.
        package: The package that has the compiler.
        extra: The extra of autoshard that installs it.
    """

    def __init__(self, topology: str, package: str, extra: str) -> None:
        self.topology = topology
        self.package = package
        super().__init__(
            f"compiling for {topology} takes the compiler in {package}, which is not installed; no "
            f"such device has to be there.\nMend it: pip install 'autoshard[{extra}]'"
        )


class CompilerError(AutoshardError):
    """A compiler that refused a program, crashed, or took too long or too much memory.

    Args:
        topology: What it compiled for.
        problem: What happened.
        detail: Its own last words.
        hint: One line that mends it.
    """

    exit_code = ExitCode.COMPILER_FAILED

    def __init__(self, topology: str, problem: str, detail: str, hint: str) -> None:
        self.topology = topology
        self.problem = problem
        self.detail = detail
        said = "".join(f"\n  {line}" for line in detail.splitlines())
        super().__init__(f"compiling for {topology}: {problem}.{said}\nMend it: {hint}")


class ExportError(AutoshardError):
    """A program that cannot be handed to a compiler in another process.

    Args:
        function: The function.
        problem: Why not.
    """

    def __init__(self, function: str, problem: str) -> None:
        self.function = function
        self.problem = problem
        super().__init__(
            f"{function!r} cannot be compiled in another process: {problem}.\n"
            "Mend it: leave callbacks (io_callback, pure_callback) out of the step that is "
            "compiled ahead of time"
        )
