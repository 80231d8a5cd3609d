"""Errors of the model zoo. It stands alone, so these do not derive from `AutoshardError`."""

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """Base of every error that the model zoo raises on purpose."""


class UnknownModelError(ModelError):
    """No preset has the given name."""

    def __init__(self, name: str, known: Iterable[str]):
        self.name = name
        self.known = tuple(known)
        close = difflib.get_close_matches(name, self.known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        super().__init__(f"No model is named {name!r}. {hint}Known: {', '.join(self.known)}.")


class UnknownOptionError(ModelError):
    """An override names no field of the model's configuration."""

    def __init__(self, model: str, options: Iterable[str], known: Iterable[str]):
        self.model = model
        self.options = tuple(options)
        self.known = tuple(known)
        super().__init__(
            f"Model {model!r} has no option {', '.join(map(repr, self.options))}. "
            f"Its options: {', '.join(self.known)}."
        )


class ModelConfigError(ModelError):
    """A configuration's values contradict each other or lie outside their range."""


class SequenceTooLongError(ModelError):
    """A sequence has more tokens than the model has learned positions."""

    def __init__(self, length: int, max_positions: int):
        self.length = length
        self.max_positions = max_positions
        super().__init__(
            f"The sequence has {length} tokens, but the model learns only {max_positions} "
            f"positions. Shorten the sequence or set max_positions={length}."
        )
