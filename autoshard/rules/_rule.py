"""The sharding rule of one op: its dimensions written as factors.

A rule says what is *legal*, never what is cheap. Each operand and result dimension is a product of
named factors, from major to minor; a factor that stands in several dimensions ties them together.
The kind of a factor says what happens when a mesh axis is put on it:

* ``PARALLEL``: every device computes its own part of the result; nothing is communicated.
* ``REDUCTION``: every device computes a partial result of full size; partials are combined with
  the factor's ``combine`` operation.
* ``HALO``: the result stays sharded, and neighbours exchange borders (slices, pads, stencils).
  Its dimension may have another size in each place, so ``size`` is the one of the first operand.
* ``WHOLE``: the dimension must be complete on every device.

The notation follows the sharding rules of Shardy (openxla/shardy, "Operation sharding rule").
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoshard.errors import RuleError

Dim = tuple[str, ...]
"""Factor names of one dimension, major to minor; empty for a dimension of size one."""
Dims = tuple[Dim, ...]
"""The dimensions of one operand or result."""


class FactorKind(enum.Enum):
    """What sharding a factor means for the op."""

    PARALLEL = "parallel"
    REDUCTION = "reduction"
    HALO = "halo"
    WHOLE = "whole"


COMBINES = ("sum", "max", "min", "prod", "and", "or", "xor")
"""Operations that merge partial results."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One independent dimension of an op's iteration space.

    Args:
        name: Unique within its rule.
        size: Number of elements.
        kind: What sharding it means.
        combine: How partial results merge; given exactly when ``kind`` is ``REDUCTION``.
    """

    name: str
    size: int
    kind: FactorKind = FactorKind.PARALLEL
    combine: str | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise RuleError(f"factor {self.name!r} has size {self.size}; a size is not negative")
        if (self.kind is FactorKind.REDUCTION) != (self.combine is not None):
            raise RuleError(
                f"factor {self.name!r} is {self.kind.value} with combine={self.combine!r}: exactly "
                f"the reduction factors name an operation, one of {', '.join(COMBINES)}"
            )
        if self.combine is not None and self.combine not in COMBINES:
            raise RuleError(
                f"factor {self.name!r} combines with {self.combine!r}; known: {', '.join(COMBINES)}"
            )


@dataclass(frozen=True, slots=True)
class OpRule:
    """The factors of one op.

    Args:
        operands: For each operand, for each dimension, its factor names from major to minor.
        results: The same for the results.
        factors: Every factor by name, in order of first appearance.

    Raises:
        RuleError: A dimension names a factor that is not listed, a listed factor stands nowhere,
            or a factor stands twice in one operand or result.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    factors: Mapping[str, Factor]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for dims in (*self.operands, *self.results):
            here = [name for dim in dims for name in dim]
            if len(here) != len(set(here)):
                raise RuleError(f"a factor stands twice in {list(dims)} of {self.text}")
            seen.update(here)
        if seen != set(self.factors):
            raise RuleError(
                f"the dimensions use the factors {sorted(seen)}, "
                f"but {sorted(self.factors)} are described"
            )

    @property
    def text(self) -> str:
        """The canonical form, which `autoshard.rules.parse` reads back."""
        from autoshard.rules._text import format_rule

        return format_rule(self)

    def __str__(self) -> str:
        return self.text

    def of_kind(self, kind: FactorKind) -> tuple[str, ...]:
        """Names of the factors of one kind, in order."""
        return tuple(name for name, factor in self.factors.items() if factor.kind is kind)

    @property
    def shardable(self) -> tuple[str, ...]:
        """Names of the factors that an axis may be put on."""
        return tuple(n for n, f in self.factors.items() if f.kind is not FactorKind.WHOLE)

    def places(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Where a factor stands: ``("operand" | "result", index, dimension)``."""
        for side, many in (("operand", self.operands), ("result", self.results)):
            for index, dims in enumerate(many):
                for d, dim in enumerate(dims):
                    if name in dim:
                        yield side, index, d

    def check(self, operands: Sequence[Sequence[int]], results: Sequence[Sequence[int]]) -> None:
        """Compare the rule with shapes.

        Args:
            operands: Shapes of the operands.
            results: Shapes of the results.

        Raises:
            RuleError: The number of arrays, a rank or the size of a dimension differs.
        """
        for side, dims_of, shapes in (
            ("operand", self.operands, operands),
            ("result", self.results, results),
        ):
            if len(dims_of) != len(shapes):
                raise RuleError(
                    f"{self.text} describes {len(dims_of)} {side}s, the op has {len(shapes)}"
                )
            for index, (dims, shape) in enumerate(zip(dims_of, shapes, strict=True)):
                if len(dims) != len(shape):
                    raise RuleError(
                        f"{self.text} gives {side} {index} {len(dims)} dimensions, "
                        f"its shape is {tuple(shape)}"
                    )
                for dim, size in zip(dims, shape, strict=True):
                    factors = [self.factors[name] for name in dim]
                    if any(f.kind is FactorKind.HALO for f in factors):
                        continue
                    if math.prod(f.size for f in factors) != size:
                        raise RuleError(
                            f"{self.text}: {side} {index} has a dimension of size {size}, "
                            f"its factors {' '.join(dim) or '1'} multiply to "
                            f"{math.prod(f.size for f in factors)}"
                        )
