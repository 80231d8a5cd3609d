"""Measured times override formulas: interpolation in log(size), monotone in time and bandwidth.

Raw micro-benchmarks are noisy: a larger message sometimes took less time. Alpa's rule mends that:
time never falls with size, and bandwidth never falls either. Outside the table the first point's
latency and the last point's bandwidth continue.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .errors import InvalidFieldError


@dataclass(frozen=True, slots=True)
class TimeTable:
    """Seconds by size.

    Attributes:
        sizes: bytes (or FLOPs), rising.
        times_s: seconds, never falling.
    """

    sizes: tuple[float, ...]
    times_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.times_s):
            raise InvalidFieldError("sizes", self.sizes, "as many sizes as times, at least one")
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise InvalidFieldError("sizes", self.sizes, "strictly rising sizes")
        if min(self.sizes) <= 0 or min(self.times_s) <= 0:
            raise InvalidFieldError("times_s", self.times_s, "sizes and times above 0")

    @classmethod
    def from_samples(cls, samples: Sequence[tuple[float, float]]) -> "TimeTable":
        """Build a table from raw (size, seconds) samples in any order.

        Repeated sizes keep their fastest run. Going down from the largest size, a time is cut to
        that of the next larger size and raised to what that size's bandwidth allows.
        """
        fastest: dict[float, float] = {}
        for size, seconds in samples:
            fastest[size] = min(seconds, fastest.get(size, math.inf))
        sizes = sorted(fastest)
        times = [fastest[size] for size in sizes]
        for i in range(len(sizes) - 2, -1, -1):
            ceiling = times[i + 1]
            floor = times[i + 1] * sizes[i] / sizes[i + 1]
            times[i] = min(max(times[i], floor), ceiling)
        return cls(tuple(sizes), tuple(times))

    def __call__(self, size: float) -> float:
        """Seconds at `size`."""
        sizes, times = self.sizes, self.times_s
        if size <= sizes[0]:
            return times[0]
        if size >= sizes[-1]:
            return times[-1] * size / sizes[-1]
        i = bisect_left(sizes, size)
        low, high = math.log(sizes[i - 1]), math.log(sizes[i])
        weight = (math.log(size) - low) / (high - low)
        return math.exp((1 - weight) * math.log(times[i - 1]) + weight * math.log(times[i]))


@dataclass(frozen=True, slots=True)
class CollectiveTables:
    """Measured collectives, by kind, level and number of participants.

    Attributes:
        tables: (kind, level, participants) -> table.
    """

    tables: Mapping[tuple[str, str, int], TimeTable] = field(default_factory=dict)

    def lookup(self, kind: str, level: str, size: int, size_bytes: float) -> float | None:
        """Measured seconds, or None where nothing was measured."""
        table = self.tables.get((kind, level, size))
        return None if table is None else table(size_bytes)
