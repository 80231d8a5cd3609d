"""The base of every error that autoshard raises for its users, and the CLI's exit codes.

To add an error, subclass `AutoshardError` in the module of its subject: keep the values that it
speaks of as attributes, build the text from them (what happened, with which values, why, and one
line to copy that mends it), and set `exit_code` where it is not a usage error.
"""

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """What the `autoshard` command returns to the shell."""

    OK = 0
    CHECK_FAILED = 1  # verification or a tolerance
    USAGE = 2
    CORRUPT_DATA = 3
    MISMATCH = 4  # two things that must agree do not
    INCOMPLETE = 5
    COMPILER_FAILED = 6  # or ran out of time or memory


class AutoshardError(Exception):
    """Base class: catch this to catch everything that autoshard raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class UsageError(AutoshardError):
    """A command line that asks for something impossible.

    Args:
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, problem: str, hint: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}.\nMend it: {hint}")
