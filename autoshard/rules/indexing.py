"""Gather and scatter.

Dimensions that are indexed element by element (an embedding's vocabulary) may be sharded: each
device looks up the indices that fall into its part and takes zero for the others, and the partial
results are added. Which indices are out of bounds is decided by the global size, before the lookup,
so this is exact in every mode. In a scatter such a dimension is parallel: each device applies the
updates that fall into its part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._common import masked_sum
from autoshard.rules._registry import RuleFunction, Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule

SCATTER_COMBINES = {
    "scatter": None,
    "scatter-add": "sum",
    "scatter-max": "max",
    "scatter-min": "min",
    "scatter-mul": "prod",
    "scatter-sub": None,
}
"""How partial results merge when updates are divided. None: the order of updates matters, or, for
``scatter-sub``, XLA gathers the updates instead of adding partials."""


@register_rule("gather")
def gather(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([v, d], [i, 1])->([i, d]) reduction={v:sum}``; a dimension taken in part is whole."""
    numbers = params["dimension_numbers"]
    sizes = params["slice_sizes"]
    operand, indices = operands
    builder = RuleBuilder(operands, results)
    offset = [int(d) for d in numbers.offset_dims]
    batch = [d for d in range(len(results[0].shape)) if d not in offset]
    batching = _pairs(numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    for index_dim, result_dim in enumerate(batch):
        more = [(0, d) for d, i in batching.items() if i == index_dim]
        builder.add(
            indices.shape[index_dim],
            operands=[*more, (1, index_dim)],
            results=[(0, result_dim)],
        )
    window = _window(operand, (*numbers.collapsed_slice_dims, *batching))
    place = dict(zip(window, sorted(offset), strict=True))
    combine = masked_sum(operand.dtype)
    for d, size in enumerate(operand.shape):
        if d in batching:
            continue
        if sizes[d] == size:
            builder.add(size, operands=[(0, d)], results=[(0, place[d])] if d in place else [])
        elif sizes[d] == 1 and d in numbers.start_index_map and combine is not None:
            builder.add(size, operands=[(0, d)], kind=FactorKind.REDUCTION, combine=combine)
    return builder.finish()


def scatter_rule(
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
    params: Mapping[str, Any],
    combine: str | None,
) -> OpRule:
    """``([v, d], [i, 1], [i, d])->([v, d]) reduction={i:sum}``.

    When updates are divided, one device starts from the operand and the others from the identity
    of the combining operation, so that the operand counts once.
    """
    numbers = params["dimension_numbers"]
    operand, indices, updates = operands
    builder = RuleBuilder(operands, results)
    update_window = sorted(int(d) for d in numbers.update_window_dims)
    batch = [d for d in range(len(updates.shape)) if d not in update_window]
    batching = _pairs(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)
    for index_dim, update_dim in enumerate(batch):
        places = [(1, index_dim), (2, update_dim)]
        size = indices.shape[index_dim]
        in_operand = [(0, d) for d, i in batching.items() if i == index_dim]
        if in_operand:
            builder.add(size, operands=[*in_operand, *places], results=in_operand)
        elif combine is not None:
            builder.add(size, operands=places, kind=FactorKind.REDUCTION, combine=combine)
        else:
            builder.add(size, operands=places, kind=FactorKind.WHOLE)
    window = _window(operand, (*numbers.inserted_window_dims, *batching))
    place = dict(zip(window, update_window, strict=True))
    for d, size in enumerate(operand.shape):
        if d in batching:
            continue
        here = [(0, d)]
        if d not in place:  # inserted: indexed element by element
            builder.add(size, operands=here, results=here)
        elif updates.shape[place[d]] == size:
            builder.add(size, operands=[*here, (2, place[d])], results=here)
        else:
            builder.add(size, operands=here, results=here, kind=FactorKind.WHOLE)
    return builder.finish()


def _scatter(combine: str | None) -> RuleFunction:
    def rule(
        operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
    ) -> OpRule:
        return scatter_rule(operands, results, params, combine)

    return rule


for _primitive, _combine in SCATTER_COMBINES.items():
    register_rule(_primitive)(_scatter(_combine))


def _pairs(operand_dims: Sequence[int], index_dims: Sequence[int]) -> dict[int, int]:
    return {int(d): int(i) for d, i in zip(operand_dims, index_dims, strict=True)}


def _window(operand: Shaped, dropped: Sequence[int]) -> list[int]:
    """Operand dimensions that appear in the slices."""
    return [d for d in range(len(operand.shape)) if d not in {int(x) for x in dropped}]
