"""Reshapes: which digits of an element's position are the same before and after.

The position of an element in row-major order is a number in mixed radix; a dimension holds the
digits between two strides, its own and the next more major one's. A factor is a run of digits
``[low, high)`` that lies in one operand dimension and in one result dimension. Two dimensions share
the digits between the least common multiple of their lower strides and the greatest common divisor
of their upper ones, where the first divides the second; all other digits stand on one side only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule


@register_rule("reshape")
def reshape(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i j])``, ``([i j])->([i, j])``, and ``([i j, k])->([i, j k])``.

    ``[6, 4]`` to ``[4, 6]`` shares the leading and the last two: ``([i j, k l])->([i m, n l])``
    with ``j``, ``k``, ``m``, ``n`` whole.
    """
    builder = RuleBuilder(operands, results)
    before, after = tuple(operands[0].shape), tuple(results[0].shape)
    if 0 in before:
        return builder.finish()
    order = tuple(params.get("dimensions") or range(len(before)))
    source = _digits([before[d] for d in order])
    target = _digits(after)
    shared = [
        (low, high, [(0, order[d])], [(0, r)])
        for d, (low_d, high_d) in enumerate(source)
        for r, (low_r, high_r) in enumerate(target)
        if (low := math.lcm(low_d, low_r)) < (high := math.gcd(high_d, high_r)) and high % low == 0
    ]
    alone = [
        (low, high, [(0, order[d])], [])
        for d, digits in enumerate(source)
        for low, high in _gaps(digits, [s[:2] for s in shared if s[2] == [(0, order[d])]])
    ] + [
        (low, high, [], [(0, r)])
        for r, digits in enumerate(target)
        for low, high in _gaps(digits, [s[:2] for s in shared if s[3] == [(0, r)]])
    ]
    for low, high, in_operand, in_result in sorted([*shared, *alone], key=lambda f: -f[0]):
        builder.add(
            high // low,
            operands=in_operand,
            results=in_result,
            kind=FactorKind.PARALLEL if in_operand and in_result else FactorKind.WHOLE,
        )
    return builder.finish()


def _digits(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The strides ``[low, high)`` that each dimension spans."""
    spans: list[tuple[int, int]] = []
    high = math.prod(sizes)
    for size in sizes:
        spans.append((high // size, high))
        high //= size
    return spans


def _gaps(span: tuple[int, int], taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What ``taken`` leaves of a span."""
    gaps: list[tuple[int, int]] = []
    low, high = span
    for taken_low, taken_high in sorted(taken, reverse=True):
        if taken_high < high:
            gaps.append((taken_high, high))
        high = taken_low
    if low < high:
        gaps.append((low, high))
    return gaps
