"""How good predictions are: errors, ranks inside families, memory, and out-of-memory calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._ranks import FAMILY_SIZE, repeat_noise, tau, tau_beyond, tau_ceiling
from ._rows import Run


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted run.

    Attributes:
        run: the run.
        seconds: predicted step time; NaN where the run has none to compare with.
        floor_seconds: prediction of the constant-MFU floor, NaN where no run of the group trains
            another network.
        memory_bytes: predicted peak where the report shows it; NaN without a measurement.
        fits: whether the run is predicted to fit into memory.
        memory_note: why.
    """

    run: Run
    seconds: float = math.nan
    floor_seconds: float = math.nan
    memory_bytes: float = math.nan
    fits: bool | None = None
    memory_note: str = ""


def errors_percent(predictions: Sequence[Prediction]) -> np.ndarray:
    """Signed relative errors of step times, in percent."""
    return np.array(
        [
            100 * (p.seconds / p.run.step_time_s - 1)
            for p in predictions
            if p.run.step_time_s and not math.isnan(p.seconds)
        ]
    )


def summarize(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The benchmark's object for one group."""
    errors = errors_percent(predictions)
    out: dict[str, Any] = {"rows": len(errors)}
    if len(errors):
        size = np.abs(errors)
        out |= {
            "mape_percent": _round(size.mean()),
            "median_percent": _round(np.median(size)),
            "p90_percent": _round(np.quantile(size, 0.9)),
            "max_percent": _round(size.max()),
            "bias_percent": _round(errors.mean()),
        }
    out |= ranking(predictions)
    floor = [
        abs(100 * (p.floor_seconds / p.run.step_time_s - 1))
        for p in predictions
        if p.run.step_time_s and not math.isnan(p.floor_seconds)
    ]
    out["floor_mape_percent"] = _round(float(np.mean(floor))) if floor else None
    memory = [
        abs(100 * (p.memory_bytes / p.run.memory_bytes - 1))
        for p in predictions
        if p.run.memory_bytes and not math.isnan(p.memory_bytes)
    ]
    out["memory_rows"] = len(memory)
    out["memory_mape_percent"] = _round(float(np.mean(memory))) if memory else None
    out["oom"] = _oom(predictions)
    return out


def ranking(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Mean Kendall tau and mean regret over families of configurations.

    Regret: how much slower the configuration predicted to be fastest ran than the fastest one.

    Returns:
        "kendall_tau", "regret_percent" and "families"; None where there is no family. Where the
        report times configurations twice also "repeat_noise_percent", "kendall_tau_beyond_noise"
        (over the pairs further apart than that) and "kendall_tau_ceiling" (of a repetition).
    """
    every: dict[tuple[Any, ...], list[Prediction]] = {}
    for p in predictions:
        if p.run.step_time_s and not math.isnan(p.seconds):
            every.setdefault(p.run.family, []).append(p)
    families = [m for m in every.values() if len({p.run.plan for p in m}) >= FAMILY_SIZE]
    if not families:
        return {"kendall_tau": None, "regret_percent": None, "families": 0}
    predicted = [[p.seconds for p in members] for members in families]
    measured = [[p.run.step_time_s or math.nan for p in members] for members in families]
    regrets = [
        100 * (seconds[int(np.argmin(guess))] / min(seconds) - 1)
        for guess, seconds in zip(predicted, measured, strict=True)
    ]
    out: dict[str, Any] = {
        "kendall_tau": _mean([tau(a, b) for a, b in zip(predicted, measured, strict=True)]),
        "regret_percent": _round(float(np.mean(regrets))),
        "families": len(families),
    }
    noise = repeat_noise(
        {key: [(p.run.plan, p.run.step_time_s or 1.0) for p in m] for key, m in every.items()}
    )
    if noise:
        pairs = list(zip(predicted, measured, strict=True))
        out["repeat_noise_percent"] = _round(100 * noise)
        out["kendall_tau_beyond_noise"] = _mean([tau_beyond(a, b, noise) for a, b in pairs])
        out["kendall_tau_ceiling"] = _mean([tau_ceiling(seconds, noise) for seconds in measured])
    return out


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return _round(float(np.mean(known))) if known else None


def _oom(predictions: Sequence[Prediction]) -> dict[str, Any]:
    published = [p for p in predictions if p.run.oom and p.fits is not None]
    ran = [p for p in predictions if not p.run.oom and p.fits is not None]
    return {
        "published": len(published),
        "predicted_oom": sum(not p.fits for p in published),
        "predicted_to_fit": [
            {"id": p.run.id, "reason": p.memory_note} for p in published if p.fits
        ],
        "plan_not_reported": [p.run.id for p in predictions if p.run.oom and p.fits is None],
        "ran": len(ran),
        "ran_but_predicted_oom": sum(not p.fits for p in ran),
    }


def by_group(predictions: Sequence[Prediction]) -> Mapping[str, list[Prediction]]:
    """Predictions by report; reports that mix devices or dense and MoE models also by part."""
    groups: dict[str, list[Prediction]] = {}
    for p in predictions:
        groups.setdefault(p.run.group, []).append(p)
    out: dict[str, list[Prediction]] = {}
    for name, members in groups.items():
        out[name] = members
        parts: dict[str, list[Prediction]] = {}
        for p in members:
            kind = "moe" if p.run.model.experts else "dense"
            parts.setdefault(f"{name}/{p.run.topology.device.name}", []).append(p)
            parts.setdefault(f"{name}/{kind}", []).append(p)
        out |= {part: rows for part, rows in parts.items() if len(rows) < len(members)}
    return out


def floor_seconds(run: Run, training: Sequence[Run]) -> float:
    """What a constant share of peak would predict: the median of like runs of the same report.

    Args:
        run: the run.
        training: runs of the same report that train other networks.

    Returns:
        Seconds, by the median model FLOP/s per device of the same device and precision, else the
        same device, else the report; NaN if there is none.
    """
    device, precision = run.topology.device.name, run.precision
    for keep in (
        lambda r: r.topology.device.name == device and r.precision == precision,
        lambda r: r.topology.device.name == device,
        lambda r: True,
    ):
        rates = [
            r.model_flops / r.topology.devices / r.step_time_s
            for r in training
            if r.step_time_s and keep(r)
        ]
        if rates:
            return run.model_flops / run.topology.devices / float(np.median(rates))
    return math.nan


def _round(value: float) -> float:
    return round(float(value), 2)
