"""How well predictions rank the configurations of a family, and how well any could.

A family holds runs of one model on the same devices with the same batch. Kendall's tau counts its
pairs in the right order against those in the wrong one. Where a report times a configuration
twice, the two differ by its noise, and no model can order runs that lie closer together.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

# Families with fewer configurations rank too little to be judged.
FAMILY_SIZE = 4
# Repetitions drawn for the ceiling.
_DRAWS = 200


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b; NaN where one side is constant."""
    return float(kendalltau(one, other)[0])  # pyright: ignore[reportArgumentType]


def repeat_noise(families: Mapping[Any, Sequence[tuple[Any, float]]]) -> float | None:
    """Relative standard deviation of a measured time, from configurations timed more than once.

    Args:
        families: family -> (plan, seconds) of its runs.

    Returns:
        Pooled over all repeated plans, each with its own mean; None where nothing was repeated.
    """
    squares, freedom = 0.0, 0
    for members in families.values():
        by_plan: dict[Any, list[float]] = {}
        for plan, seconds in members:
            by_plan.setdefault(plan, []).append(math.log(seconds))
        for logs in by_plan.values():
            squares += float(np.sum((np.array(logs) - np.mean(logs)) ** 2))
            freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else None


def tau_beyond(predicted: Sequence[float], measured: Sequence[float], noise: float) -> float:
    """Kendall's tau over the pairs whose measured times differ by more than their noise.

    Args:
        predicted: seconds.
        measured: seconds.
        noise: relative standard deviation of one measured time; two differ by sqrt(2) of it.

    Returns:
        (concordant - discordant) / pairs; NaN where no pair is left.
    """
    score = pairs = 0
    for i, one in enumerate(measured):
        for j in range(i):
            gap = math.log(one / measured[j])
            if abs(gap) <= math.sqrt(2) * noise:
                continue
            pairs += 1
            score += int(np.sign(gap) * np.sign(predicted[i] - predicted[j]))
    return score / pairs if pairs else math.nan


def tau_ceiling(measured: Sequence[float], noise: float, seed: int = 0) -> float:
    """Mean tau between the measured times and a repetition of the measurement.

    A model that knows every true time does no better on average. The measured times stand for
    the true ones, which lie somewhat closer together, so this is still an upper bound.

    Args:
        measured: seconds.
        noise: relative standard deviation of one measured time.
        seed: of the repetitions.
    """
    draws = np.random.default_rng(seed).normal(0.0, noise, (_DRAWS, len(measured)))
    again = np.log(measured) + draws
    return float(np.mean([tau(list(row), measured) for row in again]))
