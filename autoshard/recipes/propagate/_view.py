"""One array seen through an op's rule: the axes of its dimensions, told apart by factor."""

from __future__ import annotations

from autoshard.plan import MeshShape
from autoshard.recipes.propagate._slots import Slot
from autoshard.rules import Dims, FactorKind, OpRule


class View:
    """An operand or result of an op.

    Args:
        slot: Its sharding so far.
        dims: The factors of its dimensions.
        rule: The op's rule.
        mesh: The mesh.
        priority: The round: axes of dimensions with a later priority are not seen.
    """

    def __init__(
        self, slot: Slot, dims: Dims, rule: OpRule, mesh: MeshShape, priority: int
    ) -> None:
        self.slot = slot
        self._rule = rule
        self._mesh = mesh
        self._dims = dims
        self._fixed: set[int] = set()
        """Dimensions that take no more axes: closed, hidden, or with axes that fit no factor."""
        self.axes: dict[str, tuple[str, ...]] = {}
        self._seen = list(slot.dims)
        self._hidden = slot.hidden(priority)
        for d in range(len(dims)):
            self._read(d)

    def _read(self, d: int) -> None:
        self._seen[d] = self.slot.dims[d]
        if d in self._hidden or not self._split(d, self._dims[d]) or not self.slot.is_open(d):
            self._fixed.add(d)

    def _split(self, d: int, dim: tuple[str, ...]) -> bool:
        """Tell the axes of a dimension apart; whether all of them fell on factors."""
        rest = list(self.slot.dims[d])
        for name in dim:
            factor = self._rule.factors[name]
            if factor.kind is FactorKind.WHOLE:
                break
            room = self.slot.shape[d] if factor.kind is FactorKind.HALO else factor.size
            here: tuple[str, ...] = ()
            while rest and room % self._mesh.axes[rest[0]] == 0:
                room //= self._mesh.axes[rest[0]]
                here += (rest.pop(0),)
            self.axes[name] = here
            if room != 1:
                break
        return not rest

    def grow(self, name: str, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Give a factor as many of the axes as can be added here without loss.

        Args:
            name: The factor.
            axes: The axes that it has elsewhere.

        Returns:
            The axes that were added; none where the array has others on the factor already.
        """
        d = next((d for d, dim in enumerate(self._dims) if name in dim), None)
        if d is not None and self._seen[d] != self.slot.dims[d]:
            self._read(d)  # the op has the array in two places
        if d is None or d in self._fixed:
            return ()
        factor = self._rule.factors[name]
        majors = self._dims[d][: self._dims[d].index(name)]
        old = self.axes.get(name, ())
        if factor.kind is FactorKind.WHOLE or axes[: len(old)] != old:
            return ()
        if any(
            self._mesh.size_of(self.axes.get(m, ())) != self._rule.factors[m].size for m in majors
        ):
            return ()
        size = self.slot.shape[d] if factor.kind is FactorKind.HALO else factor.size
        added: tuple[str, ...] = ()
        taken = self.slot.taken
        for axis in axes[len(old) :]:
            if axis in taken or size % self._mesh.size_of((*old, *added, axis)):
                break
            added += (axis,)
        if added:
            self.axes[name] = old + added
            self.slot.dims[d] = self._seen[d] = (*self.slot.dims[d], *added)
        return added
