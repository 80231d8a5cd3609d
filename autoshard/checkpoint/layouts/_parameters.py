"""Reading the parameters of a rule or an op, and complaining about those that it does not have."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.checkpoint.layouts._expressions import ExpressionError, evaluate
from autoshard.errors import LayoutSyntaxError


class Parameters:
    """Named values, each asked for once.

    Args:
        values: The values.
        subject: What they are parameters of, for messages.
        layout: The layout's name.
        line: Where they stand.
        bindings: Quantities that expressions may use.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        subject: str,
        layout: str,
        line: int,
        bindings: Mapping[str, Any],
    ) -> None:
        self._values = dict(values)
        self._known: list[str] = []
        self.subject, self.layout, self.line = subject, layout, line
        self.bindings = bindings

    def error(self, problem: str, hint: str) -> LayoutSyntaxError:
        """An error at this place."""
        return LayoutSyntaxError(self.layout, f"{self.subject} {problem}", hint, self.line)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """A value as it was written."""
        self._known.append(name)
        return self._values.pop(name, default)

    def require(self, name: str, example: str) -> Any:
        """A value that has to be there."""
        if name not in self._values:
            raise self.error(f"lacks {name}", f"{name}: {example}")
        return self.get(name)

    def integer(self, name: str, default: Any = None) -> int:
        """An integer or an expression; required unless it has a default."""
        value = self.require(name, "1") if default is None else self.get(name, default)
        return self.evaluate(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers or expressions."""
        return self.all_integers(self.require(name, "[1, 2]"), name)

    def all_integers(self, value: Any, name: str) -> tuple[int, ...]:
        """Integers from a list as it was written."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.error(f"takes a list as {name}, got {value!r}", f"{name}: [1, 2]")
        return tuple(self.evaluate(item) for item in value)

    def evaluate(self, value: Any) -> int:
        """An integer or an expression."""
        try:
            return evaluate(value, self.bindings)
        except ExpressionError as error:
            known = ", ".join(self.bindings) or "none"
            raise self.error(f"cannot be evaluated: {error}", f"bindings: {known}") from error

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> Any:
        """One of some words."""
        value = self.require(name, choices[0]) if default is None else self.get(name, default)
        if value not in choices:
            raise self.error(f"has {name}: {value!r}", f"{name}: {' | '.join(choices)}")
        return value

    def dtype(self, name: str) -> np.dtype[Any]:
        """An element type by name."""
        value = self.require(name, "float32")
        try:
            return dtype_of(value)
        except TypeError as error:
            raise self.error(f"has {name}: {value!r}, which is no type", f"{name}: float32") from (
                error
            )

    def finish(self) -> None:
        """Raises `LayoutSyntaxError` for values that nobody asked for."""
        for name in self._values:
            near = difflib.get_close_matches(str(name), self._known, n=1)
            mean = f"; did you mean {near[0]}?" if near else ""
            raise self.error(
                f"does not know {name!r}{mean}", f"it knows {', '.join(self._known) or 'nothing'}"
            )


def dtype_of(name: Any) -> np.dtype[Any]:
    """A numpy dtype by name, those of ml_dtypes included.

    Raises:
        TypeError: There is none.
    """
    if isinstance(name, str) and hasattr(ml_dtypes, name):
        return np.dtype(getattr(ml_dtypes, name))
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is no name of a type")
    dtype = np.dtype(name)
    if dtype.hasobject or dtype.itemsize == 0 or dtype.kind in "SUV":
        raise TypeError(f"{name} holds no numbers")
    return dtype
