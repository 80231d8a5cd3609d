"""Errors about batches, texts and what each process feeds."""

from collections.abc import Mapping

from autoshard.errors._base import AutoshardError, ExitCode


class DataError(AutoshardError):
    """Training data that is missing, empty, or does not divide as asked.

    Args:
        subject: The path or quantity that the problem is about.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, subject: object, problem: str, hint: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(f"{subject}: {problem}.\nMend it: {hint}")


class UncutDataError(AutoshardError):
    """Data that cannot be cut over the devices of some axes.

    Args:
        leaves: Path → shape of the data arguments.
        axes: The axes.
        size: Number of devices along them.
        problem: What cannot be cut.
        hint: One line that mends it.
    """

    def __init__(
        self,
        leaves: Mapping[str, tuple[int, ...]],
        axes: str,
        size: int,
        *,
        problem: str,
        hint: str,
    ) -> None:
        self.leaves = dict(leaves)
        self.axes = axes
        self.size = size
        shown = ", ".join(f"{p} {list(s)}" for p, s in list(leaves.items())[:4]) or "none"
        super().__init__(f"{problem} {axes} = {size}; data: {shown}.\nMend it: {hint}")


class BatchError(UncutDataError):
    """Data whose leading dimension cannot be cut over the devices of its axes.

    Args:
        leaves: Path → shape of the data arguments.
        axes: The axes.
        size: Number of devices along them.
    """

    def __init__(self, leaves: Mapping[str, tuple[int, ...]], axes: str, size: int) -> None:
        problem = "no data argument has a leading dimension divisible by"
        super().__init__(
            leaves,
            axes,
            size,
            problem=problem if leaves else "the function takes no data that could be cut over",
            hint=f"make the global batch a multiple of {size}, use a smaller mesh, or put the "
            'strategy on fewer axes, as in strategy="dp@data"',
        )


class SequenceError(UncutDataError):
    """Data without a dimension after the batch that can be cut over the devices of its axes.

    Args:
        leaves: Path → shape of the data arguments.
        axes: The axes.
        size: Number of devices along them.
    """

    def __init__(self, leaves: Mapping[str, tuple[int, ...]], axes: str, size: int) -> None:
        super().__init__(
            leaves,
            axes,
            size,
            problem="no data argument has a dimension after the batch that is divisible by",
            hint=f"make the sequence length a multiple of {size}, or put the strategy on a "
            'smaller axis, as in strategy="dp+sequence@model"',
        )


class BatchShapeError(AutoshardError):
    """A batch that cannot be cut over its mesh axes.

    Args:
        shape: Shape of this process's part.
        spec: The wanted spec.
        mesh: The mesh.
        problem: What does not fit.
    """

    def __init__(
        self, shape: tuple[int, ...], spec: str, mesh: dict[str, int], problem: str
    ) -> None:
        self.shape = shape
        super().__init__(
            f"an array of shape {shape} cannot be laid out as {spec} on {mesh}: {problem}.\n"
            "Mend it: make the leading dimension a multiple of the devices that share it"
        )


class ProcessDataError(AutoshardError):
    """A host array that is not the same in every process.

    Args:
        shape: Its shape.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        super().__init__(
            f"a NumPy argument of shape {shape} differs between processes: a host array stands for "
            "the whole global array, so every process has to pass the same.\n"
            "Mend it: make global arrays of what each process has, "
            "step(state, autoshard.shard_batch(batch, step))"
        )
