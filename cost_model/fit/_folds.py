"""Folds that hold out whole model shapes: near duplicates never straddle one.

Two runs train nearly the same network if width, feed-forward, gating and experts agree and their
depths differ by less than a fifth; chains of such pairs stay together, across all reports.
"""

from collections.abc import Sequence

from ._rows import Run

DEPTH_RATIO = 1.2


def group_folds(runs: Sequence[Run]) -> list[list[int]]:
    """Group runs by report: what a report from elsewhere may expect.

    Args:
        runs: any runs.

    Returns:
        Lists of indices into `runs`, one per report.
    """
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.group, []).append(index)
    return list(groups.values())


def shape_folds(runs: Sequence[Run]) -> list[list[int]]:
    """Group runs by model shape.

    Args:
        runs: any runs.

    Returns:
        Lists of indices into `runs`, one per shape; together they cover every run once.
    """
    by_width: dict[tuple[object, ...], list[int]] = {}
    for index, run in enumerate(runs):
        by_width.setdefault(run.shape[:-1], []).append(index)
    folds: list[list[int]] = []
    for members in by_width.values():
        members = sorted(members, key=lambda i: runs[i].model.layers)
        current: list[int] = []
        for index in members:
            if current:
                before = runs[current[-1]].model.layers
                if runs[index].model.layers >= before * DEPTH_RATIO:
                    folds.append(current)
                    current = []
            current.append(index)
        folds.append(current)
    return folds
