"""Fit the memory constants: a ridge regression, because memory is linear in them.

Each stack's constants shrink toward its prior, each site's toward its stack's. Residuals are
relative, so that small and large runs count alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from .._constants import MemoryConstants, stack
from ._rows import Run

Array = NDArray[np.float64]

# Standard deviations of the prior: reserve, buffers (bytes per parameter), activations, logits; a
# site may differ from its stack by half of that.
_WIDTH = np.array([0.04, 1.5, 0.25, 0.3])
_SITE_SHARE = 0.5
_NOISE = 0.06
# What a run that ended well, or one that did not, says about its need as a share of the device.
_RAN_SHARE = 0.91
_OOM_SHARE = 1.02
_LIMIT_NOISE = 0.15
_LOW = np.array([0.0, 0.0, 0.25, 0.1])
_HIGH = np.array([0.2, 8.0, 2.0, 2.0])
_PROBE = MemoryConstants(reserve=0.0, buffer_bytes=1.0, activations=1.0, logits=1.0)


def _features(run: Run) -> tuple[float, Array]:
    """Bytes that no constant touches, and bytes per unit of each constant."""
    parts = run.predict_memory(_PROBE, reported=True, light=True).parts
    fixed = parts["weights"] + parts["gradients"] + parts["optimizer"] + parts["gathered"]
    live = parts["activations"] + parts["recompute"]
    return fixed, np.array([run.topology.device.hbm_bytes, parts["buffers"], live, parts["logits"]])


def _ridge(runs: Sequence[Run], prior: Array, width: Array) -> Array:
    """Ridge regression on measured runs, and on what the others prove.

    A run that ended well needed no more than its device has, one that ran out of memory needed
    more: censored observations, which count only while the fit contradicts them.
    """
    base = [(np.diag(1.0 / width), prior / width)]
    limits: list[tuple[float, Array, Run]] = []
    for run in runs:
        fixed, features = _features(run)
        if run.memory_bytes:
            scale = _NOISE * run.memory_bytes
            base.append(
                ((features / scale)[None, :], np.array([(run.memory_bytes - fixed) / scale]))
            )
        else:
            limits.append((fixed, features, run))
    values = prior
    for _ in range(4):
        rows = list(base)
        for fixed, features, run in limits:
            capacity = run.topology.device.hbm_bytes
            target = (_OOM_SHARE if run.oom else _RAN_SHARE) * capacity
            needed = fixed + float(features @ values)
            if (needed < target) == run.oom:
                scale = _LIMIT_NOISE * capacity
                rows.append(((features / scale)[None, :], np.array([(target - fixed) / scale])))
        matrix = np.vstack([row for row, _ in rows])
        found = lsq_linear(matrix, np.concatenate([y for _, y in rows]), bounds=(_LOW, _HIGH))
        values = found.x
    return values


def _vector(constants: MemoryConstants) -> Array:
    return np.array(astuple(constants))


def _constants(values: Array) -> MemoryConstants:
    reserve, buffers, activations, logits = (float(v) for v in values)
    return MemoryConstants(
        reserve=reserve, buffer_bytes=buffers, activations=activations, logits=logits
    )


def fit_memory(runs: Sequence[Run]) -> Mapping[str, MemoryConstants]:
    """Memory constants by stack and by site.

    Args:
        runs: any runs with a stated plan.

    Returns:
        Stack or site name -> constants.
    """
    # A report that leaves the plan or the microbatch open says nothing about activations.
    measured = [
        run
        for run in runs
        if not run.plan_unknown
        and "microbatch" not in run.free
        and (run.memory_bytes or run.oom or run.step_time_s)
    ]
    found: dict[str, MemoryConstants] = {}
    for name in sorted({run.stack.name for run in measured}):
        mine = [run for run in measured if run.stack.name == name]
        center = _ridge(mine, _vector(stack(name).memory), _WIDTH)
        found[name] = _constants(center)
        for site in sorted({memory_site(run) for run in mine}):
            local = [run for run in mine if memory_site(run) == site]
            found[site] = _constants(_ridge(local, center, _WIDTH * _SITE_SHARE))
    return found


def memory_site(run: Run) -> str:
    """Where memory constants are kept: the report and device, whatever the release."""
    return "/".join(run.site.split("/")[:2])


def memory_constants(run: Run, found: Mapping[str, MemoryConstants]) -> MemoryConstants:
    """Constants of a run: its site's, its stack's, or the stack's prior."""
    for name in (memory_site(run), run.stack.name):
        if name in found:
            return found[name]
    return run.stack.memory
