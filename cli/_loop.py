"""The training loop: steps, timing, and what is worth reporting."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from autoshard.errors import AutoshardError, ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run looks like after some step.

    Attributes:
        step: Steps done.
        loss: Loss of the latest of them, in nats per token.
        tokens_per_s: Throughput since the previous report; None while the first step compiles.
        time_s: Seconds since the start, compilation included.
    """

    step: int
    loss: float
    tokens_per_s: float | None
    time_s: float


class DivergedError(AutoshardError):
    """The loss has stopped being a number.

    Args:
        step: Steps done.
        loss: The loss.
    """

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, step: int, loss: float) -> None:
        self.step = step
        self.loss = loss
        super().__init__(
            f"the loss of step {step} is {loss}: training has diverged.\n"
            "Mend it: lower the learning rate, for example --lr 3e-4"
        )


def run_steps(
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batch_of: Callable[[int], Any],
    *,
    steps: int,
    seconds: float | None,
    tokens_per_step: int,
    report_every: int,
    start_step: int = 0,
    after_step: Callable[[int, Any], None] | None = None,
) -> Iterator[Report]:
    """Trains, and yields a report after the first step, every few steps, and the last.

    Args:
        step: `step(state, batch) -> (state, metrics)` with a scalar `metrics["loss"]`.
        state: Where to start.
        batch_of: The batch of a step, counted from 0.
        steps: Steps to have done at the end.
        seconds: Stop at the first report after this many seconds; None for no limit.
        tokens_per_step: Tokens in a global batch.
        report_every: Steps between reports.
        start_step: Steps that were done before.
        after_step: Called with the steps done and the state after each step.

    Raises:
        DivergedError: A reported loss is infinite or not a number.
    """
    start = since = time.perf_counter()
    reported = first = start_step
    loss: jax.Array | None = None
    for index in range(start_step, steps):
        previous = loss
        state, metrics = step(state, batch_of(index))
        loss = metrics["loss"]
        if previous is not None:
            # One step ahead of the device is enough to keep it busy. Further ahead, emulated
            # devices would starve one another of threads, and an interrupt would come late.
            previous.block_until_ready()
        done = index + 1
        if after_step is not None:
            after_step(done, state)
        if done not in (first + 1, steps) and done % report_every:
            continue
        value = float(loss)
        now = time.perf_counter()
        throughput = (
            (done - reported) * tokens_per_step / (now - since) if reported > first else None
        )
        since, reported = now, done
        if not math.isfinite(value):
            raise DivergedError(done, value)
        yield Report(step=done, loss=value, tokens_per_s=throughput, time_s=now - start)
        if seconds is not None and _agreed(now - start >= seconds):
            return


def _agreed(stop: bool) -> bool:
    """Process 0's decision: clocks differ, but all processes must stop at the same step."""
    if jax.process_count() == 1:
        return stop
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(stop)))
