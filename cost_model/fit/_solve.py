"""Fit the constants: Gauss-Newton on logarithms, robust, with shrinkage.

Every run i has its own effective constants

    log theta_i = log prior(device, stack) + H[family] + S[stack] + W[site]

and the fit minimizes

    sum_i w_i rho((log t_pred(theta_i) - log t_meas) / sigma) + sum |effect|^2 / width^2

with a Huber rho. Runs of one network at one site share an error of width `TAU` (what the model
does not know about that network), so forty variants of one network do not count as forty. Widths
come from `PRIOR_WIDTH`, split over the three effects. The Jacobian needs one extra prediction per
constant and run, whatever the number of effects, because the effects enter as sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._constants import NAMES, PRIOR_WIDTH, Constants, clamp, family, prior_constants
from ._rows import Run

Array = NDArray[np.float64]

# Observation noise: a few percent between repetitions of the same run.
SIGMA = 0.05
# Error that all runs of one network at one site share.
TAU = 0.03
# Residuals beyond this many sigma count linearly: published tables contain outliers.
HUBER = 2.0
# How the prior variance splits over hardware, software and site.
SPLIT = {"hardware": 0.32, "software": 0.28, "site": 0.4}
_WIDTHS = np.array([PRIOR_WIDTH[name] for name in NAMES])
_STEP = 0.02


@dataclass(slots=True)
class Effects:
    """Effects on the logarithm of the constants.

    Attributes:
        keys: ("hardware" | "software" | "site", name) of each row of `values`.
        values: effects, one row per key and one column per constant.
        covariance: posterior covariance of all effects, flattened; None before a fit.
    """

    keys: list[tuple[str, str]]
    values: Array
    covariance: Array | None = None

    def log_constants(self, run: Run) -> Array:
        """Logarithm of a run's constants, before their bounds."""
        device = run.topology.device
        base = prior_constants(device.name, device.kind, run.stack.name)
        log = np.log([getattr(base, name) for name in NAMES])
        wanted = effect_keys(run)
        for key, row in zip(self.keys, self.values, strict=True):
            if key in wanted:
                log = log + row
        return log

    def constants(self, run: Run) -> Constants:
        """A run's constants."""
        return to_constants(self.log_constants(run))


def to_constants(log: Array) -> Constants:
    """Constants from their logarithms."""
    pairs = zip(NAMES, log.tolist(), strict=True)
    return Constants(**{name: math.exp(clamp(name, value)) for name, value in pairs})


def effect_keys(run: Run) -> tuple[tuple[str, str], ...]:
    """Effects that apply to a run."""
    return (
        ("hardware", family(run.topology.device.name)),
        ("software", run.stack.name),
        ("site", run.site),
    )


@dataclass(slots=True)
class Linearized:
    """Residuals and their derivatives at one point.

    Attributes:
        residual: log predicted - log measured, per run.
        jacobian: derivative by the logarithm of each constant, per run.
    """

    residual: Array
    jacobian: Array


def linearize(runs: Sequence[Run], effects: Effects) -> Linearized:
    """Predict every run, once as it is and once per constant moved."""
    residual = np.empty(len(runs))
    jacobian = np.zeros((len(runs), len(NAMES)))
    for i, run in enumerate(runs):
        log = effects.log_constants(run)
        assert run.step_time_s is not None
        here = math.log(run.predict(to_constants(log)).seconds)
        residual[i] = here - math.log(run.step_time_s)
        for k in range(len(NAMES)):
            moved = log.copy()
            moved[k] += _STEP
            there = math.log(run.predict(to_constants(moved)).seconds)
            jacobian[i, k] = (there - here) / _STEP
    return Linearized(residual, jacobian)


def blank_effects(runs: Sequence[Run]) -> Effects:
    """Effects of zero for every platform among `runs`."""
    keys = sorted({key for run in runs for key in effect_keys(run)})
    return Effects(keys, np.zeros((len(keys), len(NAMES))))


def _design(runs: Sequence[Run], keys: list[tuple[str, str]], jacobian: Array) -> Array:
    index = {key: i for i, key in enumerate(keys)}
    width = len(NAMES)
    design = np.zeros((len(runs), len(keys) * width))
    for i, run in enumerate(runs):
        for key in effect_keys(run):
            start = index[key] * width
            design[i, start : start + width] = jacobian[i]
    return design


def _clusters(runs: Sequence[Run]) -> list[NDArray[np.int64]]:
    """Indices of runs that share a network and a site."""
    members: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        members.setdefault((run.site, run.shape), []).append(i)
    return [np.array(indices) for indices in members.values() if len(indices) > 1]


def _whiten(rows: Array, weight: Array, clusters: list[NDArray[np.int64]]) -> Array:
    """Scale rows by their root weights and by the inverse root of the shared error.

    The covariance of a cluster is diag(1/w^2) + TAU^2 11^T: scaled by w, the shared error lies
    along w, and that direction alone shrinks.
    """
    out = rows * weight[:, None]
    for members in clusters:
        w = weight[members]
        norm = float(w @ w)
        shrink = 1.0 - 1.0 / math.sqrt(1.0 + TAU**2 * norm)
        out[members] -= np.outer(w, (shrink / norm) * (w @ out[members]))
    return out


def weights_of(runs: Sequence[Run], per_site: float = 80.0) -> Array:
    """Weight per run: a site with many near repetitions counts like `per_site` runs at most."""
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.site] = counts.get(run.site, 0) + 1
    return np.array([min(1.0, per_site / counts[run.site]) for run in runs])


def solve(
    runs: Sequence[Run],
    start: Effects | None = None,
    *,
    iterations: int = 6,
    first: Linearized | None = None,
    tolerance: float = 2e-4,
) -> Effects:
    """Fit the effects to runs.

    Args:
        runs: runs with measured step times.
        start: where to begin; default: zero effects.
        iterations: most Gauss-Newton steps.
        first: linearization at `start`, if the caller has it.
        tolerance: stop when a step lowers the objective by less than this share.

    Returns:
        Effects with their posterior covariance.
    """
    effects = start or blank_effects(runs)
    keys = effects.keys
    precision = np.concatenate([1.0 / (SPLIT[kind] * np.square(_WIDTHS)) for kind, _ in keys])
    base_weight = np.sqrt(weights_of(runs))
    clusters = _clusters(runs)
    hessian = np.diag(precision)
    damping = 1.0 if start is None else 1e-2
    for iteration in range(iterations):
        point = first if iteration == 0 and first is not None else linearize(runs, effects)
        weight = _robust(point.residual, clusters) * base_weight
        rows = _whiten(_design(runs, keys, point.jacobian), weight, clusters)
        target = _whiten(point.residual[:, None], weight, clusters)[:, 0]
        current = effects.values.ravel()
        hessian = rows.T @ rows + np.diag(precision)
        gradient = rows.T @ target + precision * current
        before = float(target @ target + precision @ current**2)
        moved, after = effects, before
        for _ in range(8):  # Levenberg-Marquardt in units of the prior
            step = np.linalg.solve(hessian + damping * np.diag(precision), -gradient)
            values = current + step
            trial = Effects(keys, values.reshape(effects.values.shape))
            target = _whiten(residuals(runs, trial)[:, None], weight, clusters)[:, 0]
            cost = float(target @ target + precision @ values**2)
            if cost < before:
                moved, after = trial, cost
                damping = max(damping / 5, 1e-3)
                break
            damping *= 4
        effects = moved
        if before - after < tolerance * before:
            break
    return Effects(keys, effects.values, np.asarray(np.linalg.inv(hessian), np.float64))


def _robust(residual: Array, clusters: list[NDArray[np.int64]]) -> Array:
    """Roots of the Huber weights over the noise.

    Outliers are judged within their cluster: a network that the model gets wrong as a whole is
    evidence, not noise.
    """
    centred = residual.copy()
    for members in clusters:
        centred[members] -= np.median(residual[members])
    scaled = np.abs(centred) / SIGMA
    huber = np.where(scaled <= HUBER, 1.0, HUBER / np.maximum(scaled, 1e-12))
    return np.sqrt(huber) / SIGMA


def residuals(runs: Sequence[Run], effects: Effects) -> Array:
    """Log predicted - log measured, per run."""
    out = np.empty(len(runs))
    for i, run in enumerate(runs):
        assert run.step_time_s is not None
        seconds = run.predict(effects.constants(run)).seconds
        out[i] = math.log(seconds / run.step_time_s)
    return out
