"""Deadlines: one object that every loop asks, so that a time limit holds everywhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, possibly never.

    Attributes:
        at_s: Value of `time.monotonic` at which time is up; infinite for no limit.
    """

    at_s: float = math.inf

    @staticmethod
    def after(seconds: float | None) -> Deadline:
        """The deadline that many seconds from now; None for never."""
        return Deadline(math.inf if seconds is None else time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return time.monotonic() >= self.at_s

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at_s, time.monotonic() + seconds))

    def share(self, part: float) -> Deadline:
        """A deadline after that part of the time that is left; never stays never."""
        if math.isinf(self.at_s):
            return self
        return Deadline(time.monotonic() + part * self.left_s)
