"""What several families share: passing dimensions through, borders, how partials merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped
from autoshard.rules._rule import FactorKind

Places = Sequence[tuple[int, int]]


def leading(
    builder: RuleBuilder, operands: Sequence[Shaped], results: Sequence[Shaped], count: int
) -> None:
    """Let the first ``count`` dimensions of every operand and result be parallel (batch)."""
    arrays = [*operands, *results]
    for d in range(count):
        builder.add(
            arrays[0].shape[d],
            operands=[(index, d) for index in range(len(operands))],
            results=[(index, d) for index in range(len(results))],
        )


def halo(
    builder: RuleBuilder,
    operands: Iterable[tuple[Shaped, tuple[int, int]]],
    results: Iterable[tuple[Shaped, tuple[int, int]]],
) -> None:
    """Add one halo factor over dimensions of several sizes.

    A dimension of a single element cannot be cut: it stays out of the factor. Where that leaves one
    side without a place, nothing is sharded on both sides, and `RuleBuilder.finish` makes the
    dimensions whole.

    Args:
        builder: Takes the factor.
        operands: ``(array, (index, dimension))`` of each place in an operand.
        results: The same for results.
    """

    def cut(places: Iterable[tuple[Shaped, tuple[int, int]]]) -> list[tuple[tuple[int, int], int]]:
        return [(p, array.shape[p[1]]) for array, p in places if array.shape[p[1]] > 1]

    sources, targets = cut(operands), cut(results)
    if sources and targets:
        builder.add(
            sources[0][1],
            operands=[place for place, _ in sources],
            results=[place for place, _ in targets],
            kind=FactorKind.HALO,
        )


def masked_sum(dtype: object) -> str | None:
    """How partial results merge of which all but one are zero at each element.

    Args:
        dtype: Type of the elements.

    Returns:
        ``"sum"``, ``"or"`` for booleans, None for PRNG keys, which have no zero.
    """
    if not isinstance(dtype, np.dtype):
        return None
    return "or" if dtype == np.bool_ else "sum"
