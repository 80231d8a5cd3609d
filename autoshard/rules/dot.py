"""Products: batch dimensions in both operands, free ones in one, contracted ones summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._common import masked_sum
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule


@register_rule("dot_general")
def dot_general(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([b, i, k], [b, k, j])->([b, i, j]) reduction={k:sum}``, any number of each."""
    (contract_l, contract_r), (batch_l, batch_r) = params["dimension_numbers"]
    lhs, rhs = (tuple(a.shape) for a in operands)
    builder = RuleBuilder(operands, results)
    out = 0
    for l, r in zip(batch_l, batch_r, strict=True):
        builder.add(lhs[l], operands=[(0, l), (1, r)], results=[(0, out)])
        out += 1
    for side, shape, taken in (
        (0, lhs, (*contract_l, *batch_l)),
        (1, rhs, (*contract_r, *batch_r)),
    ):
        for d, size in enumerate(shape):
            if d not in taken:
                builder.add(size, operands=[(side, d)], results=[(0, out)])
                out += 1
    for l, r in zip(contract_l, contract_r, strict=True):
        builder.add(
            lhs[l],
            operands=[(0, l), (1, r)],
            kind=FactorKind.REDUCTION,
            combine=masked_sum(results[0].dtype),  # booleans are multiplied by and, added by or
        )
    return builder.finish()


@register_rule("ragged_dot_general")
def ragged_dot_general(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([m, k], [g, k, n], [g])->([m, n]) reduction={k:sum} whole={m, g}``, and its gradients.

    The ragged dimension of the left operand is cut into groups of unequal length, so its shards
    would need group sizes of their own, and XLA:TPU gathers it: it is whole, as are the groups.
    """
    numbers = params["ragged_dot_dimension_numbers"]
    (contract_l, contract_r), (batch_l, batch_r) = numbers.dot_dimension_numbers
    ragged = tuple(numbers.lhs_ragged_dimensions)
    groups = tuple(numbers.rhs_group_dimensions)
    lhs, rhs, sizes = (tuple(a.shape) for a in operands[:3])
    builder = RuleBuilder(operands, results)
    # A ragged contracted dimension leaves one product per group: the result gains a leading one.
    out = len(results[0].shape) - _dense_rank(lhs, rhs, contract_l, batch_l, groups)
    prefix = len(sizes) - 1
    for l, r in zip(batch_l, batch_r, strict=True):
        kind = FactorKind.WHOLE if l in ragged else FactorKind.PARALLEL
        # Group sizes carry the batch dimensions in front when they differ between batches.
        more = [(2, list(batch_l).index(l))] if prefix >= len(batch_l) and l not in ragged else []
        builder.add(lhs[l], operands=[(0, l), (1, r), *more], results=[(0, out)], kind=kind)
        out += 1
    for side, shape, taken in (
        (0, lhs, (*contract_l, *batch_l)),
        (1, rhs, (*contract_r, *batch_r, *groups)),
    ):
        for d, size in enumerate(shape):
            if d not in taken:
                kind = FactorKind.WHOLE if side == 0 and d in ragged else FactorKind.PARALLEL
                builder.add(size, operands=[(side, d)], results=[(0, out)], kind=kind)
                out += 1
    for l, r in zip(contract_l, contract_r, strict=True):
        places = [(0, l), (1, r)]
        if l in ragged:
            builder.add(lhs[l], operands=places, kind=FactorKind.WHOLE)
        else:
            builder.add(lhs[l], operands=places, kind=FactorKind.REDUCTION, combine="sum")
    return builder.finish()


def _dense_rank(
    lhs: Sequence[int],
    rhs: Sequence[int],
    contract_l: Sequence[int],
    batch_l: Sequence[int],
    groups: Sequence[int],
) -> int:
    """Rank of the product without a dimension of groups."""
    return len(lhs) + len(rhs) - 2 * len(contract_l) - len(batch_l) - len(groups)
