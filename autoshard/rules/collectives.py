"""Collectives that the user wrote, inside a `shard_map`.

Their shapes are those of one device of the manual axes. A dimension that is cut or joined along
those axes is whole; the others may still be sharded over the mesh's other axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import OpRule
from autoshard.rules.elementwise import identity

register_rule(
    "pbroadcast",
    "pmax",
    "pmin",
    "ppermute",
    "psum",
    "psum_invariant",
    "pvary",
)(identity)


@register_rule("all_gather", "all_gather_invariant")
def all_gather(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, k]) whole={j, k}``; untiled, a new dimension: ``([i, j])->([i, k, j])``."""
    return _except(operands, results, params["all_gather_dimension"], params["tiled"])


@register_rule("reduce_scatter")
def reduce_scatter(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j])->([i, k]) whole={j, k}``; untiled, the dimension goes: ``([i, j])->([i])``."""
    return _except(operands, results, params["scatter_dimension"], params["tiled"])


@register_rule("all_to_all")
def all_to_all(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j, k])->([l, m, k]) whole={i, j, l, m}``: cut along one, joined along another."""
    builder = RuleBuilder(operands, results)
    for d, size in enumerate(operands[0].shape):
        if d not in (params["split_axis"], params["concat_axis"]):
            builder.add(size, operands=[(0, d)], results=[(0, d)])
    return builder.finish()


@register_rule("axis_index")
def axis_index(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``()->([])``."""
    return RuleBuilder(operands, results).finish()


def _except(
    operands: Sequence[Shaped], results: Sequence[Shaped], axis: int, tiled: bool
) -> OpRule:
    """Every dimension passes but one, which exists on one side only unless ``tiled``."""
    builder = RuleBuilder(operands, results)
    before, after = len(operands[0].shape), len(results[0].shape)
    sources = [d for d in range(before) if d != axis or (not tiled and before < after)]
    targets = [d for d in range(after) if d != axis or (not tiled and after < before)]
    for d, r in zip(sources, targets, strict=True):
        builder.add(operands[0].shape[d], operands=[(0, d)], results=[(0, r)])
    return builder.finish()
