"""Memory in flat arrays: loads of labellings and prices of strategies, both by prefix sums."""

from __future__ import annotations

import numpy as np

from autoshard.search._model import Floats, Ints, Model

__all__ = ["FlatUsage"]


class FlatUsage:
    """A model's usage entries laid out for repeated evaluation.

    Attributes:
        capacity: What each row can hold, ``[rows]``.
    """

    def __init__(self, model: Model) -> None:
        """Flattens the usage vectors."""
        usage = model.usage
        self._usage = usage
        self.capacity: Floats = usage.capacity
        offsets = np.concatenate([[0], np.cumsum(model.sizes)])
        lengths = model.sizes[usage.node]
        self._lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
        self._values = np.concatenate([*usage.vectors, np.zeros(0)])
        self._columns = np.arange(len(self._values)) + np.repeat(
            offsets[usage.node] - self._starts, lengths
        )
        self._width = int(offsets[-1])

    def load(self, labels: Ints) -> Floats:
        """Memory in use in every row, ``[rows]``."""
        picked = self._values[self._starts + labels[self._usage.node]]
        return self._usage.spread(picked)

    def prices(self, multipliers: Floats) -> Floats:
        """What every strategy pays for its memory at a price per row, flat over strategies."""
        summed = np.concatenate([[0.0], np.cumsum(multipliers)])
        rate = summed[self._usage.hi] - summed[self._usage.lo]
        amounts = self._values * np.repeat(rate, self._lengths)
        return np.bincount(self._columns, amounts, self._width).astype(np.float64)
