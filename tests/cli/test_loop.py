from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard.cli._loop import DivergedError, run_steps
from autoshard.errors import ExitCode


@jax.jit
def _count_down(state, batch):
    return state + batch, {"loss": 10.0 - state}


def _run(step: Any = _count_down, **kwargs):
    options: dict[str, Any] = {
        "steps": 7,
        "seconds": None,
        "tokens_per_step": 100,
        "report_every": 3,
    } | kwargs
    return list(run_steps(step, jnp.float32(0), lambda index: jnp.float32(index), **options))


def test_reports_come_first_last_and_in_between():
    reports = _run()
    assert [report.step for report in reports] == [1, 3, 6, 7]
    # Batch i adds i, so the state before step k is 0 + 1 + ... + (k - 2).
    assert [report.loss for report in reports] == [10.0, 9.0, 0.0, -5.0]
    assert reports[0].tokens_per_s is None
    assert all(report.tokens_per_s and report.tokens_per_s > 0 for report in reports[1:])
    times = [report.time_s for report in reports]
    assert times == sorted(times)


def test_a_single_step_reports_once():
    assert [report.step for report in _run(steps=1)] == [1]


def test_time_runs_out_at_a_report():
    assert [report.step for report in _run(seconds=1e-9)] == [1]


def test_throughput_is_tokens_over_time_since_the_last_report(monkeypatch):
    ticks = iter([0.0, 10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert [report.tokens_per_s for report in _run()] == [None, 100.0, 37.5, 100.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(value):
    def step(state, batch):
        return state, {"loss": jnp.float32(value)}

    with pytest.raises(DivergedError, match=r"the loss of step 1 is .*\n.*--lr") as info:
        _run(step)
    assert info.value.exit_code is ExitCode.CHECK_FAILED
