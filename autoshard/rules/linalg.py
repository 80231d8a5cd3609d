"""Decompositions, solvers and Fourier transforms: batch dimensions lead, the rest is whole.

XLA:CPU gathers the operand of an `fft` also when only the batch is sharded; XLA:TPU does not.
XLA:TPU computes `eigh`, `lu` and `svd` block by block and gathers blocks of the batch; XLA:CPU does
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._common import leading
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule

MATRIX_OPS = (
    "cholesky",
    "eig",
    "eigh",
    "geqrf",
    "hessenberg",
    "householder_product",
    "lu",
    "ormqr",
    "qr",
    "schur",
    "svd",
    "symmetric_product",
    "triangular_solve",
    "tridiagonal",
)
"""Their first operand ends in a matrix; what stands before it is batch, also in all others."""

VECTOR_OPS = ("lu_pivots_to_permutation", "tridiagonal_solve")
"""Their first operand ends in a vector."""


@register_rule(*MATRIX_OPS)
def matrices(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([b, i, j])->([b, k], [b, l, m]) whole={i, j, k, l, m}``."""
    builder = RuleBuilder(operands, results)
    leading(builder, operands, results, len(operands[0].shape) - 2)
    return builder.finish()


@register_rule(*VECTOR_OPS)
def vectors(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([b, i])->([b, j]) whole={i, j}``."""
    builder = RuleBuilder(operands, results)
    leading(builder, operands, results, len(operands[0].shape) - 1)
    return builder.finish()


@register_rule("fft")
def fft(operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]) -> OpRule:
    """``([b, i])->([b, j]) whole={i, j}``: the last dimensions are transformed."""
    builder = RuleBuilder(operands, results)
    batch = len(operands[0].shape) - len(params["fft_lengths"])
    leading(builder, operands, results, batch)
    for d in range(batch, len(operands[0].shape)):
        if operands[0].shape[d] == results[0].shape[d]:
            builder.add(
                operands[0].shape[d],
                operands=[(0, d)],
                results=[(0, d)],
                kind=FactorKind.WHOLE,
            )
    return builder.finish()
