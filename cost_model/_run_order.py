"""The order in which a schedule's operations can run, and when each of them starts.

An operation waits for the one before it on its stage and for the one that makes its input. Which
these are depends on no time: they are worked out once per schedule and size, and sorted into waves
whose operations wait only for earlier waves, so that one pass over arrays times a wave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ._schedules import SCHEDULES, Op, ScheduleName
from .errors import ContradictionError

Array = np.ndarray[Any, Any]

KINDS = ("F", "B", "W")


@dataclass(frozen=True, slots=True)
class RunOrder:
    """All operations of a schedule, wave by wave.

    Attributes:
        ops: the operations.
        stage: where each runs.
        kind: its place in `KINDS`.
        before: one more than the place of the operation before it on its stage; 0: none.
        source: one more than the place of the operation that makes its input; 0: none.
        hops: 1 where the input comes from another stage, else 0.
        waves: places between which the waves lie.
        lines: per stage, the places of its operations in their order.
    """

    ops: tuple[Op, ...]
    stage: Array
    kind: Array
    before: Array
    source: Array
    hops: Array
    waves: tuple[int, ...]
    lines: tuple[Array, ...]

    def times(self, seconds: Array, transfer_s: float) -> tuple[Array, Array]:
        """When each operation starts and ends.

        Args:
            seconds: (stages, kinds) durations.
            transfer_s: seconds to pass activations or gradients to the neighbour.
        """
        lasts = seconds[self.stage, self.kind]
        lags = self.hops * transfer_s
        ends = np.zeros(len(self.ops) + 1)  # ends[0]: of nothing
        starts = np.empty(len(self.ops))
        for low, high in zip(self.waves, self.waves[1:], strict=False):
            now = slice(low, high)
            arrived = ends[self.source[now]] + lags[now]
            start = np.maximum(ends[self.before[now]], arrived)
            starts[now] = start
            ends[low + 1 : high + 1] = start + lasts[now]
        return starts, ends[1:]


@lru_cache(maxsize=64)
def run_order(schedule: ScheduleName, p: int, microbatches: int, chunks: int) -> RunOrder:
    """Work out the order of a schedule.

    Raises:
        ContradictionError: a schedule whose stages wait for each other, or that does not exist
            for these sizes.
    """
    orders = SCHEDULES[schedule](p, microbatches, chunks)
    # One number per (stage, kind, chunk, microbatch); its wave once it can run.
    first = {
        (kind, chunk): (i * chunks + chunk) * microbatches
        for i, kind in enumerate(KINDS)
        for chunk in range(chunks)
    }
    width = len(first) * microbatches
    wave = [-1] * (p * width)
    # What makes an operation's input: the number of its microbatch 0, or -1.
    makers = [
        {key: _maker(key, stage, p, chunks, first, width) for key in first} for stage in range(p)
    ]
    cursor, clock, previous = [0] * p, [0] * p, [-1] * p
    found: list[Op] = []
    rows: list[int] = []  # of each one found: wave, stage, own, previous, source
    total = sum(map(len, orders))
    while len(found) < total:
        reached = len(found)
        for stage, order in enumerate(orders):
            at, now, last, maker = cursor[stage], clock[stage], previous[stage], makers[stage]
            while at < len(order):
                op = order[at]
                kind, microbatch, chunk = op
                source = maker[kind, chunk]
                if source >= 0:
                    source += microbatch
                    ready = wave[source]
                    if ready < 0:
                        break
                    now = max(now, ready + 1)
                own = stage * width + first[kind, chunk] + microbatch
                wave[own] = now
                found.append(op)
                rows += (now, stage, own, last, source)
                last = own
                now += 1
                at += 1
            cursor[stage], clock[stage], previous[stage] = at, now, last
        if len(found) == reached:
            raise ContradictionError(
                [f"schedule={schedule!r}", f"microbatches={microbatches}"],
                "the stages wait for each other",
                "Use more microbatches",
            )
    return _sorted(found, np.array(rows).reshape(-1, 5), p, p * width)


def _sorted(found: Sequence[Op], rows: Array, p: int, numbers: int) -> RunOrder:
    order = np.argsort(rows[:, 0], kind="stable")
    waves, stage, own, previous, source = rows[order].T
    place = np.zeros(numbers + 1, np.int64)  # the last one, found by -1: of nothing
    place[own] = np.arange(1, len(found) + 1)
    width = numbers // p
    return RunOrder(
        ops=tuple(found[i] for i in order.tolist()),
        stage=stage,
        kind=own % width // (width // len(KINDS)),
        before=place[previous],
        source=place[source],
        hops=((source >= 0) & (source // width != stage)).astype(np.float64),
        waves=(0, *(np.flatnonzero(np.diff(waves)) + 1).tolist(), len(found)),
        lines=tuple(np.flatnonzero(stage == each) for each in range(p)),
    )


def _maker(
    key: tuple[str, int],
    stage: int,
    stages: int,
    chunks: int,
    first: Mapping[tuple[str, int], int],
    width: int,
) -> int:
    """Number of the operation that makes the input of a stage's (kind, chunk); -1: none does."""
    kind, chunk = key
    forward = kind == "F"
    if kind == "W":
        key, at = ("B", chunk), stage
    elif stage != (0 if forward else stages - 1):
        at = stage - 1 if forward else stage + 1
    elif forward:
        if chunk == 0:
            return -1
        key, at = ("F", chunk - 1), stages - 1
    elif chunk < chunks - 1:
        key, at = ("B", chunk + 1), 0
    else:  # the loss turns around on the last stage
        key, at = ("F", chunk), stage
    return at * width + first[key]
