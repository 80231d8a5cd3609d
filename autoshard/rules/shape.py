"""Ops that move or copy elements without computing: broadcasts, transposes, slices, pads.

A dimension that is taken whole is parallel. One that is taken in part, moved or joined with others
is a halo: it may stay sharded on both sides, and devices exchange what crosses their borders.
`reshape` has a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._common import halo
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule


@register_rule("broadcast_in_dim")
def broadcast_in_dim(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, 1])->([i, j, k])``: new and expanded dimensions are the result's own."""
    builder = RuleBuilder(operands, results)
    source = {int(r): d for d, r in enumerate(params["broadcast_dimensions"])}
    for r, size in enumerate(results[0].shape):
        d = source.get(r)
        kept = d is not None and operands[0].shape[d] == size
        builder.add(size, operands=[(0, d)] if d is not None and kept else [], results=[(0, r)])
    return builder.finish()


@register_rule("concatenate")
def concatenate(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [i, j])->([i, j]) halo={j}``."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(results[0].shape):
        if d == params["dimension"]:
            halo(
                builder,
                [(operand, (index, d)) for index, operand in enumerate(operands)],
                [(results[0], (0, d))],
            )
        else:
            places = [(index, d) for index in range(len(operands))]
            builder.add(size, operands=places, results=[(0, d)])
    return builder.finish()


@register_rule("dynamic_slice")
def dynamic_slice(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [], [])->([i, k]) whole={j, k}``: where the slice lies is not known."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        if results[0].shape[d] == size:
            builder.add(size, operands=[(0, d)], results=[(0, d)])
    return builder.finish()


@register_rule("dynamic_update_slice")
def dynamic_update_slice(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [i, k], [], [])->([i, j]) whole={j, k}``: where the update lies is not known.

    An update of one element (a step of a key-value cache), ``([i, j], [i, 1], …)->([i, j])``, lies
    on one device, which writes it. Larger ones may cross borders: XLA gathers the operand.
    """
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        if operands[1].shape[d] == size:
            builder.add(size, operands=[(0, d), (1, d)], results=[(0, d)])
        elif operands[1].shape[d] == 1:
            builder.add(size, operands=[(0, d)], results=[(0, d)])
        else:
            builder.add(size, operands=[(0, d)], results=[(0, d)], kind=FactorKind.WHOLE)
    return builder.finish()


@register_rule("iota")
def iota(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``()->([i, j])``: every device knows its own offset."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(results[0].shape):
        builder.add(size, results=[(0, d)])
    return builder.finish()


@register_rule("pad")
def pad(operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]) -> OpRule:
    """``([i, j], [])->([i, j]) halo={j}``, with ``j`` padded or, by negative padding, cropped."""
    builder = RuleBuilder(operands, results)
    for d, (low, high, interior) in enumerate(params["padding_config"]):
        inside = interior and operands[0].shape[d] > 1
        _partly(builder, operands, results, d, untouched=not (low or high or inside))
    return builder.finish()


@register_rule("rev")
def rev(operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]) -> OpRule:
    """``([i, j])->([i, j]) halo={j}``: the shards of a reversed dimension trade places."""
    builder = RuleBuilder(operands, results)
    for d in range(len(operands[0].shape)):
        _partly(builder, operands, results, d, untouched=d not in params["dimensions"])
    return builder.finish()


@register_rule("slice")
def slice_(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, j]) halo={j}``; a dimension cut down to one element is whole."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        _partly(builder, operands, results, d, untouched=results[0].shape[d] == size)
    return builder.finish()


@register_rule("split")
def split(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, j], [i, j]) halo={j}``."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        places = [(index, d) for index in range(len(results))]
        if d == params["axis"] and len(results) > 1:
            halo(
                builder,
                [(operands[0], (0, d))],
                [(result, place) for result, place in zip(results, places, strict=True)],
            )
        else:
            builder.add(size, operands=[(0, d)], results=places)
    return builder.finish()


@register_rule("squeeze")
def squeeze(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, 1, j])->([i, j])``."""
    builder = RuleBuilder(operands, results)
    rank = len(operands[0].shape)
    dropped = {d % rank for d in params["dimensions"]}
    for r, d in enumerate(d for d in range(rank) if d not in dropped):
        builder.add(operands[0].shape[d], operands=[(0, d)], results=[(0, r)])
    return builder.finish()


@register_rule("stack")
def stack(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i], [i])->([j, i]) whole={j}``: each index of the new dimension is another array."""
    builder = RuleBuilder(operands, results)
    axis = params["axis"]
    for d, size in enumerate(operands[0].shape):
        builder.add(
            size,
            operands=[(index, d) for index in range(len(operands))],
            results=[(0, d + (d >= axis))],
        )
    return builder.finish()


@register_rule("tile")
def tile(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i])->([j i])``: the repetitions are the result's own, outside what they repeat."""
    builder = RuleBuilder(operands, results)
    for d, (size, times) in enumerate(zip(operands[0].shape, params["reps"], strict=True)):
        builder.add(int(times), results=[(0, d)])
        builder.add(size, operands=[(0, d)], results=[(0, d)])
    return builder.finish()


@register_rule("transpose")
def transpose(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([j, i])``."""
    builder = RuleBuilder(operands, results)
    for r, d in enumerate(params["permutation"]):
        builder.add(operands[0].shape[d], operands=[(0, d)], results=[(0, r)])
    return builder.finish()


@register_rule("unstack")
def unstack(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([j, i])->([i], [i]) whole={j}``."""
    builder = RuleBuilder(operands, results)
    axis = params["axis"] % len(operands[0].shape)
    for r, size in enumerate(results[0].shape):
        builder.add(
            size,
            operands=[(0, r + (r >= axis))],
            results=[(index, r) for index in range(len(results))],
        )
    return builder.finish()


def _partly(
    builder: RuleBuilder,
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
    d: int,
    *,
    untouched: bool,
) -> None:
    """Dimension ``d`` of the first operand becomes that of the result, untouched or in part."""
    if untouched:
        builder.add(operands[0].shape[d], operands=[(0, d)], results=[(0, d)])
    else:
        halo(builder, [(operands[0], (0, d))], [(results[0], (0, d))])
