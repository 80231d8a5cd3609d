"""Proof of a parallel or reduction factor: run the shards, combine, compare with the whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from autoshard.errors import RuleViolationError
from autoshard.rules._rule import FactorKind
from autoshard.rules.oracle._cut import cut, join
from autoshard.rules.oracle._local import RunShard, Shard, run_local
from autoshard.rules.oracle._op import Arrays, Op

COMBINE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "and": np.bitwise_and,
    "max": np.maximum,
    "min": np.minimum,
    "or": np.bitwise_or,
    "prod": np.multiply,
    "sum": np.add,
    "xor": np.bitwise_xor,
}
RELATIVE = 1e-5
"""Largest difference of float results, relative to the largest element of the whole."""


def prove_by_shards(
    op: Op,
    operands: Arrays,
    whole: Arrays,
    factor: str,
    shards: int,
    run: RunShard = run_local,
) -> float:
    """Cut every operand along a factor, run the parts, combine them.

    Args:
        op: The op.
        operands: Its operands, whole.
        whole: Its results, whole.
        factor: Name of a parallel or reduction factor.
        shards: Into how many parts to cut it.
        run: Runs one shard on its operands.

    Returns:
        The largest difference from the whole, relative to its largest element.

    Raises:
        RuleViolationError: The combined results are not the whole ones.
    """
    rule = op.rule
    description = rule.factors[factor]
    parts: list[Arrays] = []
    for index in range(shards):
        shard = Shard(op=op, factor=factor, index=index, count=shards)
        local = tuple(
            cut(array, dims, rule.factors, factor, shards, index)
            for array, dims in zip(operands, rule.operands, strict=True)
        )
        try:
            parts.append(run(shard, local))
        except (TypeError, ValueError, NotImplementedError, ZeroDivisionError) as error:
            raise _violation(op, factor, shards, f"a shard does not run: {error}") from error
    worst = 0.0
    for number, expected in enumerate(whole):
        got = join([p[number] for p in parts], rule.results[number], rule.factors, factor)
        if got is None and description.kind is FactorKind.REDUCTION:
            assert description.combine is not None
            got = reduce(COMBINE[description.combine], [p[number] for p in parts])
        # A parallel factor that does not stand in a result leaves it the same on every device.
        candidates = [got] if got is not None else [p[number] for p in parts]
        for candidate in candidates:
            worst = max(worst, _compare(op, factor, shards, number, candidate, expected))
    return worst


def _compare(
    op: Op, factor: str, shards: int, number: int, got: np.ndarray, expected: np.ndarray
) -> float:
    if got.shape != expected.shape:
        problem = f"result {number} comes out with shape {got.shape}, not {expected.shape}"
        raise _violation(op, factor, shards, problem)
    differences = difference(got, expected)
    worst = float(np.max(differences, initial=0.0))
    if worst > RELATIVE:
        wrong = int(np.sum(differences > RELATIVE))
        problem = (
            f"{wrong} of {expected.size} elements of result {number} differ from the whole, "
            f"by up to {worst:.3g} of its largest"
        )
        raise _violation(op, factor, shards, problem)
    return worst


def difference(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Element by element, relative to the largest finite one; infinite where not comparable."""
    if not np.issubdtype(expected.dtype, np.inexact) and expected.dtype.kind != "V":
        return np.where(got == expected, 0.0, np.inf)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = got.astype(wide), expected.astype(wide)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    scale = max(float(np.max(np.abs(np.where(np.isfinite(b), b, 0)), initial=0.0)), 1e-30)
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.where(finite, a - b, 0)) / scale
    return np.where(same, 0.0, np.where(finite, apart, np.inf))


def _violation(op: Op, factor: str, shards: int, problem: str) -> RuleViolationError:
    return RuleViolationError(
        primitive=str(op.primitive),
        rule=op.rule.text,
        factor=factor,
        kind=op.rule.factors[factor].kind.value,
        problem=f"cut into {shards} shards, {problem}",
    )
