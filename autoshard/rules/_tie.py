"""Ties: where values cross the border of a loop body, a branch or a rematerialized call.

A tie is an op that computes nothing. It says that its operands and results are one variable: the
initial carry of a scan, the carry inside its body, what the body returns and the scan's result.
Leading dimensions that exist on one side only (the scanned dimension of a scan's inputs and
outputs) are whole: a loop runs over them in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import OpRule
from autoshard.tracing import ARGUMENT, RESULT, TIE


@register_rule(TIE)
def tie(operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]) -> OpRule:
    """``([i, j])->([i, j])``; a scanned input ``([i, j])->([j])`` with ``i`` whole.

    Its params: ``operand_leading`` and ``result_leading``, per array the number of leading
    dimensions that the others do not have.
    """
    builder = RuleBuilder(operands, results)
    places: dict[str, list[tuple[int, int]]] = {"operands": [], "results": []}
    for side, leading in (
        ("operands", params["operand_leading"]),
        ("results", params["result_leading"]),
    ):
        places[side] = list(enumerate(leading))
    arrays = {"operands": operands, "results": results}
    side0 = "results" if places["results"] else "operands"
    index0, lead0 = places[side0][0]
    shape = arrays[side0][index0].shape[lead0:]
    for d, size in enumerate(shape):
        builder.add(
            size,
            operands=[(index, lead + d) for index, lead in places["operands"]],
            results=[(index, lead + d) for index, lead in places["results"]],
        )
    return builder.finish()


@register_rule(ARGUMENT, RESULT)
def border(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``()->([i, j])`` and ``([i, j])->()``: every dimension of an argument or result is free."""
    builder = RuleBuilder(operands, results)
    for array in operands:
        for d, size in enumerate(array.shape):
            builder.add(size, operands=[(0, d)])
    for array in results:
        for d, size in enumerate(array.shape):
            builder.add(size, results=[(0, d)])
    return builder.finish()
