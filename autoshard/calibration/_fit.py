"""From raw times to constants: least squares on logarithms with a prior toward the datasheet."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from autoshard.cost_model import Constants, Device, Link, Segment, collective_time

from ._measure import Samples

Array = NDArray[np.float64]

# Noise of one micro-benchmark, and width of the prior, on the logarithm.
NOISE = 0.15
PRIOR_WIDTH = 1.5


def _fit(
    model: Callable[[Array], Array], measured: Sequence[float], start: Sequence[float]
) -> tuple[Array, Array]:
    """Log-parameters and their posterior standard deviations."""
    center = np.log(np.asarray(start))
    target = np.log(np.asarray(measured))

    def residual(log: Array) -> Array:
        data = (np.log(model(np.exp(log))) - target) / NOISE
        # The prior enters whole: a robust loss on it would let parameters run away.
        return np.concatenate([np.arcsinh(data), (log - center) / PRIOR_WIDTH])

    found = least_squares(residual, center)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return found.x, np.sqrt(np.diag(covariance))


def fit_constants(
    samples: Samples, device: Device, start: Constants
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit what the samples can tell.

    Args:
        samples: raw measurements.
        device: catalog row, for the nominal rates.
        start: the prior.

    Returns:
        (constant -> value, constant -> posterior standard deviation of its logarithm).
    """
    values: dict[str, float] = {}
    widths: dict[str, float] = {}

    def keep(names: Sequence[str], fit: tuple[Array, Array]) -> None:
        for name, log, width in zip(names, *fit, strict=True):
            values[name] = float(f"{math.exp(log):.5g}")
            widths[name] = round(float(width), 4)

    if samples.matmul:
        flops = np.array([f for f, _ in samples.matmul])
        peak = device.peak(samples.dtype)
        keep(
            ("matmul", "ramp_s"),
            _fit(
                lambda p: flops / (peak * p[0]) + p[1],
                [s for _, s in samples.matmul],
                (start.matmul, start.ramp_s),
            ),
        )
    if samples.copy:
        moved = np.array([b for b, _ in samples.copy])
        keep(
            ("memory", "launch_s"),
            _fit(
                lambda p: moved / (device.hbm_bytes_per_s * p[0]) + p[1],
                [s for _, s in samples.copy],
                (start.memory, start.launch_s),
            ),
        )
    if samples.collectives:
        keep(("up", "up_latency_s"), _fit_links(samples.collectives, device, start))
    return values, widths


def _fit_links(
    collectives: Mapping[tuple[str, str, int], Sequence[tuple[float, float]]],
    device: Device,
    start: Constants,
) -> tuple[Array, Array]:
    nominal = device.scale_up_bytes_per_s or 2 * device.ici_link_bytes_per_s
    cases = [
        (kind, size, count, seconds)
        for (kind, _, count), pairs in collectives.items()
        for size, seconds in pairs
    ]

    def predict(parameters: Array) -> Array:
        share, latency = parameters
        out = np.empty(len(cases))
        for i, (kind, size, count, _) in enumerate(cases):
            # The estimator's latency per collective, see `cost_model._meshlinks`.
            segment = Segment(
                kind="switch",
                level="domain",
                size=count,
                bytes_per_s=nominal * share,
                latency_s=latency * (1 + math.log2(count)) / 4,
                steps=1.0,
            )
            out[i] = collective_time(kind, size, Link((segment,)))  # pyright: ignore[reportArgumentType]
        return out

    return _fit(predict, [case[3] for case in cases], (start.up, start.up_latency_s))
