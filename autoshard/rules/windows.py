"""Pooling: reductions over sliding windows and their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule
from autoshard.rules._windows import Window, WindowTie

Indices = tuple[Sequence[int], Sequence[int]]
"""Of operands and of results."""


def _sliding(
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
    params: Mapping[str, Any],
    *,
    large: Indices,
    small: Indices,
) -> OpRule:
    """Windows over the ``large`` arrays yield one element each of the ``small`` ones."""
    builder = RuleBuilder(operands, results)

    def shape(which: Indices) -> tuple[int, ...]:
        return operands[which[0][0]].shape if which[0] else results[which[1][0]].shape

    for d, size in enumerate(params["window_dimensions"]):
        low, high = params["padding"][d]
        window = Window(
            input=shape(large)[d],
            output=shape(small)[d],
            size=size,
            stride=params["window_strides"][d],
            low=low,
            high=high,
            input_dilation=params["base_dilation"][d] if "base_dilation" in params else 1,
            dilation=params["window_dilation"][d] if "window_dilation" in params else 1,
        )
        tie = window.tie()
        sources = [(index, d) for index in (*large[0], *small[0])]
        targets = [(index, d) for index in (*large[1], *small[1])]
        if tie is WindowTie.SAME:
            builder.add(window.input, operands=sources, results=targets)
        elif tie is WindowTie.HALO:
            builder.add(window.input, operands=sources, results=targets, kind=FactorKind.HALO)
        elif tie is WindowTie.BLOCKS:
            builder.add(window.output, operands=sources, results=targets)
            builder.add(
                window.stride_now,
                operands=[(index, d) for index in large[0]],
                results=[(index, d) for index in large[1]],
                kind=FactorKind.WHOLE,
            )
    return builder.finish()


@register_rule("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")
def reduce_window(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([n, h])->([n, h]) halo={h}``; side by side, ``([n, h k])->([n, h]) whole={k}``."""
    every = range(len(results))
    return _sliding(operands, results, params, large=(every, ()), small=((), every))


@register_rule("select_and_gather_add")
def select_and_gather_add(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([n, h], [n, h])->([n, h]) halo={h}``: the forward derivative of max pooling."""
    return _sliding(operands, results, params, large=((0, 1), ()), small=((), (0,)))


@register_rule("select_and_scatter", "select_and_scatter_add")
def select_and_scatter(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([n, h], [n, h])->([n, h]) halo={h}``: the gradient of max pooling."""
    source, operand = (1, 0) if params.get("scatter_jaxpr") is not None else (0, 1)
    return _sliding(operands, results, params, large=((operand,), (0,)), small=((source,), ()))
