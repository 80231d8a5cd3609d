"""Sorts and selections: the dimension that is ordered is whole, the others are batch.

XLA:CPU gathers the operand of `top_k` also when only the batch is sharded; XLA:TPU does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule


def _along(operands: Sequence[Shaped], results: Sequence[Shaped], axis: int) -> OpRule:
    builder = RuleBuilder(operands, results)
    axis %= len(operands[0].shape)
    for d, size in enumerate(operands[0].shape):
        in_operands = [(index, d) for index in range(len(operands))]
        in_results = [(index, d) for index in range(len(results))]
        if d != axis:
            builder.add(size, operands=in_operands, results=in_results)
        elif results[0].shape[d] == size:
            builder.add(size, operands=in_operands, results=in_results, kind=FactorKind.WHOLE)
        else:
            builder.add(size, operands=in_operands, kind=FactorKind.WHOLE)
            builder.add(results[0].shape[d], results=in_results, kind=FactorKind.WHOLE)
    return builder.finish()


@register_rule("approx_top_k")
def approx_top_k(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, k], [i, k]) whole={j, k}``."""
    return _along(operands, results, params["reduction_dimension"])


@register_rule("sort")
def sort(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [i, j])->([i, j], [i, j]) whole={j}``, for any number of operands."""
    return _along(operands, results, params["dimension"])


@register_rule("top_k")
def top_k(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, k], [i, k]) whole={j, k}``."""
    return _along(operands, results, params.get("axis", -1))
