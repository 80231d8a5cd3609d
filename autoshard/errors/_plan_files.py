"""Errors about plans on disk, and plans that belong to something else."""

from collections.abc import Sequence

from autoshard.errors._base import AutoshardError, ExitCode


class PlanFileError(AutoshardError):
    """A file that is no plan, or no longer one.

    Args:
        path: The file.
        problem: What is wrong with it, and where.
        hint: One line that mends it.
    """

    exit_code = ExitCode.CORRUPT_DATA

    def __init__(
        self, path: object, problem: str, hint: str = "write it anew: step.plan(...).save(path)"
    ) -> None:
        self.path = str(path)
        self.problem = problem
        super().__init__(f"plan file {self.path}: {problem}.\nMend it: {hint}")


class MissingPlanError(AutoshardError):
    """A plan file that is not there.

    Args:
        path: The file.
    """

    def __init__(self, path: object) -> None:
        self.path = str(path)
        super().__init__(
            f"plan file {self.path}: there is no such file.\n"
            "Mend it: step.plan(...).save(path), or autoshard plan MODEL --out FILE"
        )


class PlanSchemaError(AutoshardError):
    """A plan file in a form that this version does not know.

    Args:
        path: The file.
        found: Its schema version.
        known: The newest schema version that this autoshard reads.
        writer: The version of autoshard that wrote it.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(self, path: object, found: int, known: int, writer: str) -> None:
        self.path = str(path)
        self.found = found
        self.known = known
        super().__init__(
            f"plan file {self.path}: autoshard {writer} wrote it with schema version {found}; this "
            f"autoshard reads version {known}.\n"
            f"Mend it: pip install 'autoshard>={writer}', or plan again with this version"
        )


class PlanWriteError(AutoshardError):
    """A plan that cannot be written.

    Args:
        path: Where it was to go.
        problem: Why not.
        hint: One line that mends it.
    """

    def __init__(self, path: object, problem: str, hint: str) -> None:
        self.path = str(path)
        self.problem = problem
        super().__init__(f"cannot write the plan to {self.path}: {problem}.\nMend it: {hint}")


class PlanMismatchError(AutoshardError):
    """A plan of another program or mesh.

    Args:
        plan: Name of the planned function.
        differences: What differs, the first difference first.
        hint: One line that mends it.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(
        self,
        plan: str,
        differences: Sequence[str],
        hint: str = "plan this program: leave plan= out, or use like= for other shapes",
    ) -> None:
        self.plan = plan
        self.differences = tuple(differences)
        listed = "".join(f"\n  {line}" for line in differences)
        super().__init__(
            f"the plan of {plan!r} does not belong to this program:{listed}\nMend it: {hint}"
        )


class PlanOptionError(AutoshardError):
    """An option beside ``plan=`` that says something else than the plan.

    Args:
        option: Its name.
        value: What was given.
        problem: What the plan says.
    """

    def __init__(self, option: str, value: object, problem: str) -> None:
        self.option = option
        self.value = value
        super().__init__(
            f"{option}={value!r} contradicts plan=: {problem}.\nMend it: leave {option}= out"
        )


class PlanCacheWarning(UserWarning):
    """A plan that cannot be kept between processes, or a kept one that is not used."""
