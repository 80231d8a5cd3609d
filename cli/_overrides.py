"""`--set FIELD=VALUE`: text to the types of a model's configuration."""

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoshard.errors import UsageError


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads `FIELD=VALUE` assignments.

    Args:
        assignments: For example `["layers=6", "dtype=bfloat16", "blocks=(2,2)"]`. Values are
            Python literals; true, false and none are understood in any case, and what is no
            literal is a string.

    Returns:
        Values by field.

    Raises:
        UsageError: An assignment has no `=`, or a field is set twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        field = field.strip()
        if not equals or not field.isidentifier():
            raise UsageError(
                f"--set {assignment!r} is not of the form FIELD=VALUE", "--set layers=6"
            )
        if field in values:
            raise UsageError(f"--set gives {field!r} twice", f"--set {field}={text}")
        values[field] = _literal(text.strip())
    return values


def match_types(values: dict[str, Any], config: Any) -> dict[str, Any]:
    """Compares overrides with the types of the values that they replace.

    Args:
        values: Values by field, as from `parse_overrides`.
        config: The configuration before the overrides.

    Returns:
        The values; integers have become floats where the field is a float.

    Raises:
        UsageError: A value has another type than its field, or the field's type cannot be
            written on a command line.
    """
    matched = dict(values)
    for field, value in values.items():
        if not hasattr(config, field):
            continue  # the model knows what it has, and says so
        old = getattr(config, field)
        if isinstance(old, float) and type(value) is int:
            matched[field] = float(value)
        elif isinstance(old, np.dtype):
            pass  # given by name; the configuration reads it
        elif not isinstance(old, bool | int | float | str | tuple):
            raise UsageError(
                f"{field} is no plain value, so --set cannot give it",
                f"autoshard.models.get(..., {field}=...) in Python",
            )
        elif type(value) is not type(old):
            raise UsageError(
                f"--set {field}={value!r} is of type {type(value).__name__}, but {field} is of "
                f"type {type(old).__name__}",
                f"--set {field}={str(old).replace(' ', '')}",
            )
    return matched


def _literal(text: str) -> Any:
    names = {"true": True, "false": False, "none": None}
    if text.lower() in names:
        return names[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
