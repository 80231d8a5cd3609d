"""When a checkpoint is made, and which ones are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoshard.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePolicy:
    """When to save: at the first of the two.

    Args:
        every_steps: After so many steps.
        every_minutes: After so many minutes; process 0's clock counts.

    Raises:
        CheckpointError: Neither is given, or one is not above zero.
    """

    every_steps: int | None = None
    every_minutes: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.every_steps, self.every_minutes) if v is not None]
        if not given or any(value <= 0 for value in given):
            raise CheckpointError(
                f"every_steps={self.every_steps}, every_minutes={self.every_minutes}",
                "one of them must be given, and be above zero",
                "SavePolicy(every_steps=1000)",
            )

    def due(self, steps: int, minutes: float) -> bool:
        """Whether to save, so many steps and minutes after the last time."""
        by_steps = self.every_steps is not None and steps >= self.every_steps
        return by_steps or (self.every_minutes is not None and minutes >= self.every_minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """Which checkpoints stay. The newest that was verified always does.

    Args:
        last: So many of the newest.
        every: Those of steps that are multiples of this.
        best: Name of a metric: so many of the best by it stay.
        best_count: How many.
        best_mode: Whether small or large values are good.

    Raises:
        CheckpointError: A number is below one.
    """

    last: int = 3
    every: int | None = None
    best: str | None = None
    best_count: int = 1
    best_mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        for name in ("last", "every", "best_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CheckpointError(f"{name}={value}", "is below one", "KeepPolicy(last=3)")

    def keep(self, steps: Sequence[int], metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps that stay.

        Args:
            steps: All steps.
            metrics: What is known of them.
        """
        kept = set(sorted(steps)[-self.last :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        if self.best is not None:
            known = [
                (metrics[step][self.best], step)
                for step in steps
                # NaN is not the best of anything, and would spoil the order.
                if not math.isnan(metrics.get(step, {}).get(self.best, math.nan))
            ]
            known.sort(reverse=self.best_mode == "max")
            kept |= {step for _, step in known[: self.best_count]}
        return kept
