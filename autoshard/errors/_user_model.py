"""Errors about models of the user's own on the command line."""

from autoshard.errors._base import AutoshardError


class UserModelError(AutoshardError):
    """A `package.module:callable` that is no model.

    Args:
        model: What was given.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, model: str, problem: str, hint: str) -> None:
        self.model = model
        self.problem = problem
        super().__init__(f"MODEL {model!r}: {problem}.\nMend it: {hint}")
