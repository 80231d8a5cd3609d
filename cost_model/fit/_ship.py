"""Fit on all known runs and write the constants that the package ships.

python -m autoshard.cost_model.fit RUNS.json.gz [SINGLE_NODE.csv.gz] --out constants.json
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._constants import NAMES, PRIOR_WIDTH
from ._evaluate import training_subset
from ._memory_fit import fit_memory
from ._rows import Run
from ._solve import HUBER, SIGMA, SPLIT, TAU, Effects, effect_keys, solve

# Effects smaller than this change no prediction worth mentioning; leaving them out keeps the
# file readable.
_SMALL = 1e-3


def _posterior_width(effects: Effects, runs: Sequence[Run]) -> dict[str, float]:
    """Median over seen platforms of the standard deviation of each log constant."""
    assert effects.covariance is not None
    index = {key: i for i, key in enumerate(effects.keys)}
    count = len(NAMES)
    platforms = {effect_keys(run) for run in runs}
    widths: dict[str, float] = {}
    for k, name in enumerate(NAMES):
        spread: list[float] = []
        for keys in platforms:
            picks = [index[key] * count + k for key in keys]
            block = effects.covariance[np.ix_(picks, picks)]
            spread.append(float(np.sqrt(max(block.sum(), 0.0))))
        widths[name] = round(float(np.median(spread)), 4)
    return widths


def fitted_document(runs: Sequence[Run], *, today: datetime.date | None = None) -> dict[str, Any]:
    """Fit everything and describe it.

    Args:
        runs: all known runs.
        today: for tests.

    Returns:
        The content of the package's `data/constants.json`.
    """
    training = training_subset(runs)
    effects = solve(training, iterations=20)
    document: dict[str, Any] = {"hardware": {}, "software": {}, "site": {}}
    for (kind, name), values in zip(effects.keys, effects.values, strict=True):
        row = {n: round(float(v), 4) for n, v in zip(NAMES, values, strict=True) if abs(v) > _SMALL}
        document[kind][name] = row
    memory = {
        name: {k: float(f"{v:.4g}") for k, v in asdict(constants).items()}
        for name, constants in fit_memory(runs).items()
    }
    groups: dict[str, int] = {}
    for run in training:
        groups[run.group] = groups.get(run.group, 0) + 1
    return {
        "provenance": {
            "date": (today or datetime.date.today()).isoformat(),
            "method": "Gauss-Newton on log step times; effects of hardware, software and site "
            "with a Gaussian prior; Huber loss; shared error per network and site",
            "observation_sigma": SIGMA,
            "network_sigma": TAU,
            "huber_sigmas": HUBER,
            "prior_variance_split": SPLIT,
            "prior_width": dict(PRIOR_WIDTH),
            "runs": sum(groups.values()),
            "caution": "achieved shares of this model, not physical quantities: several of them "
            "trade against each other (see width)",
        },
        "fitted_on": sorted(groups),
        "fitted_rows": groups,
        "width": _posterior_width(effects, training),
        **document,
        "memory": memory,
    }


def write_constants(runs: Sequence[Run], path: Path) -> dict[str, Any]:
    """Fit and write `path`; returns what was written."""
    document = fitted_document(runs)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return document
