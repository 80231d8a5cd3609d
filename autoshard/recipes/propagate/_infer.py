"""What the arrays of one op tell each other.

The axes of a factor are those on which all arrays that hold it agree, as far as one list is the
beginning of the other. Then each array takes the axes of its factors. An axis that two of *its*
factors want is a real conflict, and decided for this array alone: in favour of the factor that
costs no communication, then of the one that a larger array brings, then of the first. Factors that
never meet in an array do not conflict, whatever axes they have. (Shardy, openxla/shardy, calls
this aggressive propagation.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoshard.plan import MeshShape
from autoshard.recipes.propagate._slots import Slot
from autoshard.recipes.propagate._view import View
from autoshard.rules import Dims, FactorKind, OpRule

_RANK = {FactorKind.PARALLEL: 0, FactorKind.HALO: 1, FactorKind.REDUCTION: 2}

Direction = Callable[[FactorKind], tuple[bool, bool]]
"""Of a kind of factor: whether operands and whether results may learn of it in this round."""


def infer(
    rule: OpRule,
    operands: Sequence[Slot | None],
    results: Sequence[Slot],
    mesh: MeshShape,
    *,
    priority: int,
    direction: Direction,
    op_id: int,
) -> list[Slot]:
    """Let the arrays of an op learn from each other.

    Args:
        rule: The op's rule; that of a ``result`` op has what it returns as result.
        operands: Slots of the operands; None for literals.
        results: Slots of the results.
        mesh: The mesh.
        priority: The round of user priorities.
        direction: Who learns of which factors.
        op_id: The op, noted as the way by which axes came.

    Returns:
        The slots that changed.
    """

    def views(slots: Sequence[Slot | None], dims: Sequence[Dims]) -> list[View]:
        return [
            View(slot, of_slot, rule, mesh, priority)
            for slot, of_slot in zip(slots, dims, strict=True)
            if slot is not None and slot.shape
        ]

    sides = (views(operands, rule.operands), views(results, rule.results))
    wanted = _wanted(rule, [*sides[0], *sides[1]])
    changed: list[Slot] = []
    for learns, side in zip((0, 1), sides, strict=True):
        for view in side:
            for name, axes, source in wanted:
                if not direction(rule.factors[name].kind)[learns]:
                    continue
                added = view.grow(name, axes)
                for axis in added:
                    view.slot.found[axis] = (source, op_id)
                if added and view.slot not in changed:
                    changed.append(view.slot)
    return changed


def _wanted(rule: OpRule, views: Sequence[View]) -> list[tuple[str, tuple[str, ...], Slot]]:
    """Factors with axes in the order of preference, and the largest array that has all of them."""
    found: list[tuple[tuple[int, int, int], str, tuple[str, ...], Slot]] = []
    for position, (name, factor) in enumerate(rule.factors.items()):
        holders = [view for view in views if view.axes.get(name)]
        axes = _agreed([view.axes[name] for view in holders])
        if not axes:
            continue
        complete = [view for view in holders if len(view.axes[name]) >= len(axes)]
        source = max(complete, key=lambda view: view.slot.nbytes)
        rank = (_RANK[factor.kind], -source.slot.nbytes, position)
        found.append((rank, name, axes, source.slot))
    return [(name, axes, source) for _, name, axes, source in sorted(found, key=lambda f: f[0])]


def _agreed(many: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest list of which every other is a beginning, cut where two differ."""
    agreed: tuple[str, ...] = ()
    while True:
        following = {axes[len(agreed)] for axes in many if len(axes) > len(agreed)}
        if len(following) != 1:
            return agreed
        agreed += tuple(following)
