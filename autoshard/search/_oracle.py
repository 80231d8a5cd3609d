"""Brute force: the answer that every other method is tested against."""

from __future__ import annotations

import itertools
import math

import numpy as np

from autoshard.search._evaluate import evaluate
from autoshard.search._model import Ints
from autoshard.search._problem import Problem
from autoshard.search.errors import ProblemError

__all__ = ["brute_force"]


def brute_force(problem: Problem, *, max_labellings: int = 2_000_000) -> tuple[float, Ints | None]:
    """Tries every labelling.

    Args:
        problem: The problem; small.
        max_labellings: Refuse above this many.

    Returns:
        The smallest cost of a feasible labelling and that labelling (the first in lexicographic
        order); infinity and None if there is none.

    Raises:
        ProblemError: If there are more than `max_labellings`.
    """
    leader = list(range(problem.num_nodes))
    for tie in problem.ties:
        # Overlapping ties chain: everything with one of their leaders follows the smallest.
        heads = {leader[n] for n in tie}
        leader = [min(heads) if h in heads else h for h in leader]
    free = sorted(set(leader))
    sizes = problem.num_strategies
    count = math.prod(int(sizes[n]) for n in free)
    if count > max_labellings:
        raise ProblemError("problem", f"{count} labellings are more than {max_labellings}")
    slot = {n: i for i, n in enumerate(free)}
    spread = np.array([slot[n] for n in leader])
    best_cost, best = math.inf, None
    for choice in itertools.product(*(range(int(sizes[n])) for n in free)):
        labels = np.array(choice, np.int64)[spread]
        found = evaluate(problem, labels)
        if found.feasible and found.cost < best_cost:
            best_cost, best = found.cost, labels
    return best_cost, best
