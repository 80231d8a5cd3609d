"""Predict published runs: held out by model shape, or with the shipped constants."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from .._constants import MemoryConstants, shipped_constants
from .._memory import Memory
from ._folds import group_folds, shape_folds
from ._lightest import lightest_plan
from ._memory_fit import fit_memory, memory_constants
from ._metrics import Prediction, floor_seconds
from ._rows import Run
from ._solve import Effects, Linearized, effect_keys, linearize, solve


def memory_note(memory: Memory) -> str:
    """The largest parts of a predicted peak, in words."""
    largest = sorted(memory.parts.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in largest)
    return (
        f"{memory.bytes / 1e9:.1f} of {memory.capacity_bytes / 1e9:.1f} GB on stage "
        f"{memory.stage}: {parts}"
    )


def _memory(run: Run, constants: MemoryConstants) -> tuple[float, bool | None, str]:
    if run.plan_unknown:
        # The report names the planner alone: could any of its plans have fitted?
        best = lightest_plan(run, constants) if run.oom else None
        return math.nan, best and best.fits, memory_note(best) + ", its best plan" if best else ""
    whole = run.predict_memory(constants, light=True)
    shown = math.nan
    if run.memory_bytes and "microbatch" not in run.free:
        shown = run.predict_memory(constants, reported=True).bytes
    return shown, whole.fits, memory_note(whole)


def training_subset(runs: Sequence[Run], every: int = 7) -> list[Run]:
    """Runs to fit on: every published one, and each seventh of the large single-node sweep."""
    out: list[Run] = []
    seen = 0
    for run in runs:
        if not run.step_time_s or run.plan_unknown:
            continue
        if run.group == "vtrain_single":
            seen += 1
            if seen % every != 1:
                continue
        out.append(run)
    return out


def held_out(
    runs: Sequence[Run],
    *,
    leave: Literal["shape", "group"] = "shape",
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """Predict every run with constants fitted on runs of other model shapes only.

    Args:
        runs: published runs.
        leave: "group" holds out whole reports instead, with all that is peculiar to their site.
        progress: called with (folds done, folds).

    Returns:
        One prediction per run.
    """
    training = training_subset(runs)
    whole = solve(training, iterations=16)
    base = linearize(training, whole)
    folds = shape_folds(runs) if leave == "shape" else group_folds(runs)
    predictions: list[Prediction] = []
    for done, fold in enumerate(folds):
        held = {runs[i].id for i in fold}
        keep = [i for i, run in enumerate(training) if run.id not in held]
        rest = [training[i] for i in keep]
        # Started from the whole fit to save time, then iterated on the rest alone until nothing of
        # the runs held out is left in the effects: three steps are too few.
        start = Linearized(base.residual[keep], base.jacobian[keep])
        touched = len(keep) < len(training)
        effects = solve(rest, whole, iterations=8, first=start) if touched else whole
        if leave == "group":
            effects = _seen_only(effects, rest)
        others = [run for i, run in enumerate(runs) if i not in set(fold)]
        found = fit_memory(others)
        predictions += [
            _predict(runs[i], effects, found, [r for r in others if r.group == runs[i].group])
            for i in fold
        ]
        if progress is not None:
            progress(done + 1, len(folds))
    return predictions


def _seen_only(effects: Effects, runs: Sequence[Run]) -> Effects:
    """Effects without those of platforms that no run is of."""
    seen = {key for run in runs for key in effect_keys(run)}
    rows = [
        row if key in seen else 0.0 * row
        for key, row in zip(effects.keys, effects.values, strict=True)
    ]
    return Effects(effects.keys, np.array(rows), effects.covariance)


def _predict(
    run: Run,
    effects: Effects,
    found: Mapping[str, MemoryConstants],
    group: Sequence[Run],
) -> Prediction:
    shown, fits, note = _memory(run, memory_constants(run, found))
    comparable = run.step_time_s and not run.plan_unknown
    return Prediction(
        run=run,
        seconds=run.predict(effects.constants(run)).seconds if comparable else math.nan,
        floor_seconds=floor_seconds(run, group) if comparable else math.nan,
        memory_bytes=shown,
        fits=fits,
        memory_note=note,
    )


def with_shipped(runs: Sequence[Run]) -> list[Prediction]:
    """Predict runs with the constants of the package; nothing is fitted.

    The floor alone looks at the file: it needs other networks of the same report.
    """
    fitted = shipped_constants()
    predictions: list[Prediction] = []
    for fold in shape_folds(runs):
        inside = set(fold)
        for i in fold:
            run = runs[i]
            device = run.topology.device
            constants = fitted.constants(device.name, device.kind, run.stack.name, run.site)
            site = "/".join(run.site.split("/")[:2])
            shown, fits, note = _memory(run, fitted.memory_constants(run.stack.name, site))
            comparable = run.step_time_s and not run.plan_unknown
            group = [r for j, r in enumerate(runs) if j not in inside and r.group == run.group]
            predictions.append(
                Prediction(
                    run=run,
                    seconds=run.predict(constants).seconds if comparable else math.nan,
                    floor_seconds=floor_seconds(run, group) if comparable else math.nan,
                    memory_bytes=shown,
                    fits=fits,
                    memory_note=note,
                )
            )
    return predictions
