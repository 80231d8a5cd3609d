"""The fit on a small synthetic platform, whose true constants are known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoshard.cost_model import Constants, MemoryConstants
from autoshard.cost_model.fit import (
    Prediction,
    by_group,
    convolution_oom,
    group_folds,
    held_out,
    read_run,
    shape_folds,
    summarize,
)
from autoshard.cost_model.fit._memory_fit import fit_memory
from autoshard.cost_model.fit._metrics import floor_seconds, ranking
from autoshard.cost_model.fit._ranks import repeat_noise, tau, tau_beyond, tau_ceiling
from autoshard.cost_model.fit._resnet import largest_convolution_share, lower_bound
from autoshard.cost_model.fit._solve import blank_effects, linearize, solve, to_constants

TRUE = {"matmul": 0.6, "up": 0.4, "derate": 1.1}


def _row(layers, hidden, tp, microbatch, batch=64):
    return {
        "id": f"{layers}-{hidden}-{tp}-{microbatch}",
        "group": "synthetic",
        "source": {"title": "made up"},
        "model": {
            "name": f"m{hidden}",
            "layers": layers,
            "hidden": hidden,
            "heads": hidden // 128,
            "vocab": 32000,
            "seq": 2048,
        },
        "hardware": {"accel": "h100", "devices_per_node": 8},
        "n_devices": 8,
        "global_batch": batch,
        "microbatch": microbatch,
        "parallel": {"tp": tp, "pp": 1, "dp": 8 // tp, "zero": 1},
        "recompute": "full",
        "precision": "bf16",
        "measured": {"step_time_s": 1.0},
    }


@pytest.fixture(scope="module")
def runs():
    out = []
    for layers, hidden in [(12, 2048), (24, 2048), (24, 4096), (32, 5120), (40, 6144)]:
        for tp in (1, 2, 4, 8):
            for microbatch in (1, 2, 4):
                run = read_run(_row(layers, hidden, tp, microbatch))
                constants = replace(to_constants(blank_effects([run]).log_constants(run)), **TRUE)
                out.append(replace(run, step_time_s=run.predict(constants).seconds))
    return out


def test_folds_hold_out_whole_shapes(runs):
    folds = shape_folds(runs)
    assert sorted(i for fold in folds for i in fold) == list(range(len(runs)))
    shapes = [{runs[i].shape for i in fold} for fold in folds]
    assert len(folds) == 5
    # A near duplicate (25 against 24 layers) stays with its like; twice the depth does not.
    near = replace(runs[0], model=replace(runs[0].model, layers=13))
    assert len(shape_folds([*runs, near])) == 5
    assert all(len(s) == 1 for s in shapes)


def test_the_jacobian_is_the_derivative(runs):
    some = runs[:4]
    effects = blank_effects(some)
    point = linearize(some, effects)
    log = effects.log_constants(some[0])
    log[0] += 1e-4
    moved = math.log(some[0].predict(to_constants(log)).seconds / some[0].step_time_s)
    slope = (moved - point.residual[0]) / 1e-4
    assert point.jacobian[0, 0] == pytest.approx(slope, rel=0.05)


def test_recovers_a_platform_and_predicts_held_out_shapes(runs):
    held = {run.id for run in runs if run.model.hidden == 4096}
    effects = solve([run for run in runs if run.id not in held], iterations=10)
    errors = [
        run.predict(effects.constants(run)).seconds / run.step_time_s - 1
        for run in runs
        if run.id in held
    ]
    assert np.abs(errors).mean() < 0.02
    prior = [
        run.predict(blank_effects([run]).constants(run)).seconds / run.step_time_s - 1
        for run in runs
    ]
    assert np.abs(prior).mean() > 0.1
    assert effects.covariance is not None
    assert np.all(np.diag(effects.covariance) > 0)


def test_an_outlier_does_not_move_the_fit(runs):
    spoiled = [replace(runs[0], step_time_s=5 * runs[0].step_time_s), *runs[1:]]
    effects = solve(spoiled, iterations=10)
    errors = [run.predict(effects.constants(run)).seconds / run.step_time_s - 1 for run in runs[1:]]
    assert np.abs(errors).mean() < 0.03


def test_memory_constants_come_back(runs):
    true = MemoryConstants(reserve=0.06, buffer_bytes=1.0, activations=1.2, logits=0.8)
    measured = [replace(run, memory_bytes=run.predict_memory(true).bytes) for run in runs]
    found = fit_memory(measured)["synthetic/h100"]
    errors = [run.predict_memory(found).bytes / (run.memory_bytes or 1) - 1 for run in measured]
    assert np.abs(errors).max() < 0.03


def test_metrics(runs):
    family = [run for run in runs if run.model.hidden == 4096]
    exact = [Prediction(run=run, seconds=run.step_time_s or 0.0) for run in family]
    figures = summarize(exact)
    assert figures["mape_percent"] == 0
    assert figures["kendall_tau"] == 1.0
    assert figures["regret_percent"] == 0
    backwards = [Prediction(run=run, seconds=1 / (run.step_time_s or 1.0)) for run in family]
    ranks = ranking(backwards)
    assert (ranks["kendall_tau"], ranks["families"]) == (-1.0, 1)
    assert ranks["regret_percent"] > 10
    high = [Prediction(run=run, seconds=1.1 * (run.step_time_s or 0.0)) for run in family]
    assert summarize(high)["bias_percent"] == pytest.approx(10.0)
    assert set(by_group(exact)) == {"synthetic"}


def test_the_floor_knows_other_shapes_only(runs):
    others = [run for run in runs if run.model.hidden != 4096]
    run = next(run for run in runs if run.model.hidden == 4096)
    seconds = floor_seconds(run, others)
    rates = [r.model_flops / 8 / (r.step_time_s or 1.0) for r in others]
    assert seconds == pytest.approx(run.model_flops / 8 / np.median(rates))
    assert math.isnan(floor_seconds(run, []))


def test_wide_resnet_bounds():
    # ResNet-50: the last group's 3 x 3 convolutions hold 2.36 M of 23.5 M weights each, of which
    # 2.1 M lie in shortcuts, classifier and norms that the share leaves out.
    assert largest_convolution_share(50, 1.0) == pytest.approx(2.36 / 21.4, rel=0.02)
    row = {
        "model": {"name": "WideResNet-2B", "params": 2e9, "layers": 50},
        "n_devices": 8,
        "parallel": {"zero": 0},
        "schedule": "parax.data_parallel",
    }
    assert lower_bound(row)[0] == 32e9


def test_constants_stay_positive():
    assert Constants().matmul > 0


def test_noise_bounds_what_ranks_can_say():
    # One plan timed twice, 10 % apart; the others far apart.
    noise = repeat_noise({"f": [("a", 1.0), ("a", 1.1), ("b", 2.0), ("c", 3.0)]})
    assert noise == pytest.approx(math.log(1.1) / math.sqrt(2))
    assert repeat_noise({"f": [("a", 1.0), ("b", 1.1)]}) is None
    measured, predicted = [1.0, 1.1, 2.0, 3.0], [1.1, 1.0, 2.0, 3.0]
    assert tau(predicted, measured) == pytest.approx(4 / 6)
    assert tau_beyond(predicted, measured, 0.068) == 1.0
    assert math.isnan(tau_beyond(predicted, measured, 5.0))
    assert tau_ceiling(measured, 1e-6) == 1.0
    assert 0.3 < tau_ceiling(measured, 0.3) < 0.95


def test_a_group_held_out_lends_nothing(runs):
    far = [replace(run, group="elsewhere", site="elsewhere/h100") for run in runs[::6]]
    assert [len(fold) for fold in group_folds([*runs, *far])] == [len(runs), len(far)]
    found = held_out([*runs, *far], leave="group")
    assert {p.run.id for p in found} == {run.id for run in runs}
    # The platform's effects are shared, those of the site are not: near, and not exact.
    errors = [abs(p.seconds / (p.run.step_time_s or 1) - 1) for p in found if p.run.group != "x"]
    assert 0.001 < np.mean(errors) < 0.3


def test_odd_rows_are_no_convolutions():
    wide = {"name": "WideResNet-2B", "params": 2e9, "layers": 50}
    good = {
        "id": "one",
        "group": "alpa",
        "model": wide,
        "n_devices": 1,
        "parallel": {},
        "schedule": "parax.data_parallel",
        "measured": {"oom": True},
    }
    odd: list[Any] = [7, {}, {"model": wide}, {**good, "n_devices": None}, {**good, "model": None}]
    assert [judged["id"] for judged in convolution_oom([*odd, good])] == ["one"]
