"""The reductions in the order in which they are worth their time, until none of them bites."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from autoshard.search._model import Ints, Lift, Model
from autoshard.search.presolve._arc import arc_consistency
from autoshard.search.presolve._dominance import drop_dominated
from autoshard.search.presolve._eliminate import eliminate
from autoshard.search.presolve._fixed import fold_fixed
from autoshard.search.presolve._follow import merge_followers
from autoshard.search.presolve._rows import reduce_rows

__all__ = ["REDUCTIONS", "Presolved", "presolve"]

type_reduction = Callable[[Model], tuple[Model, Lift] | None]

# Name to reduction, in the order of application.
REDUCTIONS: dict[str, type_reduction] = {
    "arc": arc_consistency,
    "followers": merge_followers,
    "rows": reduce_rows,
    "fixed": fold_fixed,
    "dominance": drop_dominated,
    "elimination": eliminate,
}

_MAX_ROUNDS = 25
_LARGE = 300_000
_WORTHWHILE = 0.97


@dataclass(slots=True)
class Presolved:
    """A reduced model and the way back.

    Attributes:
        model: The reduced model.
        lifts: The reductions that were applied, first to last.
    """

    model: Model
    lifts: list[Lift]

    def up(self, labels: Ints) -> Ints:
        """Labels of the reduced model to labels of the original one."""
        for lift in reversed(self.lifts):
            labels = lift.up(labels)
        return labels

    def down(self, labels: Ints) -> Ints:
        """Labels of the original model to labels of the reduced one, best effort."""
        for lift in self.lifts:
            labels = lift.down(labels)
        return labels


def presolve(
    model: Model,
    enabled: Collection[str] = tuple(REDUCTIONS),
    *,
    out_of_time: Callable[[], bool] = bool,
) -> Presolved:
    """Applies the enabled reductions until nothing changes.

    Every reduction keeps at least one optimal labelling, so the optimum is the same whichever are
    enabled. Arc consistency always runs: what follows relies on finite node costs.

    Args:
        model: The compiled model.
        enabled: Names from `REDUCTIONS`.
        out_of_time: Asked before each reduction; no further one is started once it says yes.

    Returns:
        The reduced model and the way back.

    Raises:
        NoLabellingError: If forbidden entries leave a node without strategies.
    """
    done = Presolved(model, [])
    for _ in range(_MAX_ROUNDS):
        before = _work(done.model)
        changed = False
        for name, reduction in REDUCTIONS.items():
            if name != "arc" and (name not in enabled or out_of_time()):
                continue
            found = reduction(done.model)
            if found is not None:
                done.model, lift = found
                done.lifts.append(lift)
                changed = True
        if not changed:
            break
        # A large model is left alone once a round no longer pays for the next one.
        if before > _LARGE and _work(done.model) > _WORTHWHILE * before:
            break
    last = arc_consistency(done.model)
    if last is not None:
        done.model, lift = last
        done.lifts.append(lift)
    return done


def _work(model: Model) -> int:
    return model.entries + len(model.usage.vectors) + len(model.costs)
