"""Checks of user input: every message names the field and what is valid."""

import math
from collections.abc import Collection

from .errors import InvalidFieldError


def positive_int(field: str, value: object) -> int:
    """Return `value` if it is an integer of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidFieldError(field, value, "an integer of at least 1")
    return value


def non_negative(field: str, value: object) -> float:
    """Return `value` if it is a finite number of at least zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidFieldError(field, value, "a finite number of at least 0")
    return value


def positive(field: str, value: object) -> float:
    """Return `value` if it is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidFieldError(field, value, "a finite number above 0")
    return value


def fraction(field: str, value: object) -> float:
    """Return `value` if it lies in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidFieldError(field, value, "a number from 0 to 1")
    return value


def one_of(field: str, value: object, valid: Collection[object]) -> None:
    """Raise unless `value` is among `valid`."""
    if value not in valid:
        raise InvalidFieldError(field, value, ", ".join(str(v) for v in valid))
