"""Random bits and key plumbing.

A key is whole. Bits drawn from it are the result's own dimensions: counter-based generators let
each device draw its part, with the values that one device would draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._common import leading
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import OpRule


@register_rule("random_bits")
def random_bits(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([k])->([k, i, j])``: ``k`` is a batch of keys, each drawn ``(i, j)`` times."""
    builder = RuleBuilder(operands, results)
    batch = len(operands[0].shape)
    leading(builder, operands, results, batch)
    for d, size in enumerate(results[0].shape[batch:], batch):
        builder.add(size, results=[(0, d)])
    return builder.finish()


@register_rule("rng_bit_generator")
def rng_bit_generator(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([k])->([l], [i, j]) whole={k, l}``: the state is whole, the bits are free."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(results[1].shape):
        builder.add(size, results=[(1, d)])
    return builder.finish()


@register_rule("random_seed", "random_split", "random_unwrap", "random_wrap")
def key_plumbing(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([k, i])->([k])`` or ``([k])->([k, i])``; words or parts ``i`` of one key are whole."""
    builder = RuleBuilder(operands, results)
    leading(builder, operands, results, min(len(operands[0].shape), len(results[0].shape)))
    return builder.finish()


@register_rule("random_gamma")
def random_gamma(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([k], [k, i])->([k, i]) whole={i}``: elements under one key are drawn by splitting it."""
    builder = RuleBuilder(operands, results)
    leading(builder, operands, results, len(operands[0].shape))
    return builder.finish()
