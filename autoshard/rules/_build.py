"""A builder that names factors and fills the dimensions nobody spoke of.

Rule functions talk about places (operand 0, dimension 2); the builder turns them into factors
named ``i, j, k, …`` in order of first appearance, which makes the text form canonical.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from autoshard.errors import RuleError
from autoshard.rules._registry import Shaped
from autoshard.rules._rule import Dim, Factor, FactorKind, OpRule

Place = tuple[int, int] | None
"""``(array index, dimension)``, or None where the factor does not stand in an array."""


def factor_names():
    """``i … z``, then ``i1 … z1``, ``i2`` …: the order in which factors are named."""
    letters = "ijklmnopqrstuvwxyz"
    for round_ in count():
        for letter in letters:
            yield letter if round_ == 0 else f"{letter}{round_}"


class RuleBuilder:
    """Collects factors by the places where they stand.

    Args:
        operands: Avals of the operands.
        results: Avals of the results.
    """

    def __init__(self, operands: Sequence[Shaped], results: Sequence[Shaped]) -> None:
        self._shapes = {
            "operand": [tuple(a.shape) for a in operands],
            "result": [tuple(a.shape) for a in results],
        }
        self._dims: dict[str, list[list[list[int]]]] = {
            side: [[[] for _ in shape] for shape in shapes] for side, shapes in self._shapes.items()
        }
        self._factors: list[tuple[int, FactorKind, str | None]] = []

    def add(
        self,
        size: int,
        *,
        operands: Sequence[tuple[int, int]] = (),
        results: Sequence[tuple[int, int]] = (),
        kind: FactorKind = FactorKind.PARALLEL,
        combine: str | None = None,
    ) -> RuleBuilder:
        """Add a factor at some places; in a dimension used before it becomes the minor part.

        Args:
            size: Elements of the factor. One of size one is not recorded.
            operands: ``(operand index, dimension)`` of each place.
            results: ``(result index, dimension)`` of each place.
            kind: Its kind.
            combine: The merging operation of a reduction.

        Returns:
            The builder itself.
        """
        if size == 1 and kind is not FactorKind.HALO:
            return self
        number = len(self._factors)
        self._factors.append((size, kind, combine))
        for side, places in (("operand", operands), ("result", results)):
            for index, d in places:
                self._dims[side][index][d].append(number)
        return self

    def whole(
        self, *, operands: Sequence[tuple[int, int]] = (), results: Sequence[tuple[int, int]] = ()
    ) -> RuleBuilder:
        """Add one whole factor *per place*: these dimensions are not related to each other."""
        for side, places in (("operand", operands), ("result", results)):
            for index, d in places:
                self.add(
                    self._shapes[side][index][d],
                    kind=FactorKind.WHOLE,
                    **{side + "s": ((index, d),)},  # type: ignore[arg-type]
                )
        return self

    def finish(self) -> OpRule:
        """Make every dimension that no factor describes whole, name the factors, build the rule."""
        for side, arrays in self._dims.items():
            for index, dims in enumerate(arrays):
                for d, numbers in enumerate(dims):
                    if not numbers and self._shapes[side][index][d] != 1:
                        place = ((index, d),)
                        if side == "operand":
                            self.whole(operands=place)
                        else:
                            self.whole(results=place)
        fresh = factor_names()
        names: dict[int, str] = {}
        for arrays in self._dims.values():
            for dims in arrays:
                for numbers in dims:
                    for number in numbers:
                        if number not in names:
                            names[number] = next(fresh)
        if len(names) != len(self._factors):
            raise RuleError("a factor was added without a place; give operands= or results=")

        def named(arrays: list[list[list[int]]]) -> tuple[tuple[Dim, ...], ...]:
            return tuple(
                tuple(tuple(names[n] for n in numbers) for numbers in dims) for dims in arrays
            )

        return OpRule(
            operands=named(self._dims["operand"]),
            results=named(self._dims["result"]),
            factors={name: Factor(name, *self._factors[number]) for number, name in names.items()},
        )
