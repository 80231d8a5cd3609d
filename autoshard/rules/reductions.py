"""Reductions and cumulative ops along dimensions: ``([i, j])->([i]) reduction={j:sum}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import RuleFunction, Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule

COMBINES = {
    "reduce_and": "and",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_or": "or",
    "reduce_prod": "prod",
    "reduce_sum": "sum",
    "reduce_xor": "xor",
}
LOGICAL = ("and", "or", "xor")


def _reduced(
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
    axes: Sequence[int],
    combine: str | None,
    inputs: int,
) -> OpRule:
    """A reduction of the first ``inputs`` operands together; ``combine=None`` makes axes whole."""
    builder = RuleBuilder(operands, results)
    kept = 0
    for d, size in enumerate(operands[0].shape):
        places = [(index, d) for index in range(inputs)]
        if d not in axes:
            builder.add(
                size, operands=places, results=[(index, kept) for index in range(len(results))]
            )
            kept += 1
        elif combine is None:
            builder.add(size, operands=places, kind=FactorKind.WHOLE)
        else:
            builder.add(size, operands=places, kind=FactorKind.REDUCTION, combine=combine)
    return builder.finish()


def _reduction(combine: str) -> RuleFunction:
    def rule(
        operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
    ) -> OpRule:
        # XLA:CPU refuses to all-reduce integers bit by bit, and booleans by xor ("Unsupported
        # reduction computation"): those dimensions are whole, though a partial would be legal.
        refused = combine in LOGICAL and (combine == "xor" or operands[0].dtype != np.bool_)
        return _reduced(operands, results, params["axes"], None if refused else combine, 1)

    return rule


for _primitive, _combine in COMBINES.items():
    register_rule(_primitive)(_reduction(_combine))


@register_rule("argmax", "argmin")
def arg_reduction(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i]) whole={j}``: an index says nothing without the value it belongs to."""
    return _reduced(operands, results, params["axes"], None, 1)


@register_rule("reduce")
def reduce(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [])->([i]) whole={j}``: no collective runs an arbitrary computation."""
    return _reduced(operands, results, params["dimensions"], None, len(operands) // 2)


@register_rule("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")
def cumulative(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, j]) whole={j}``: each element needs all before it, not neighbours."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        kind = FactorKind.WHOLE if d == params["axis"] else FactorKind.PARALLEL
        builder.add(size, operands=[(0, d)], results=[(0, d)], kind=kind)
    return builder.finish()
