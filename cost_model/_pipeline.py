"""Pipeline schedules by event simulation: unequal stages, transfers, and what is in flight.

A schedule is a list of operations per stage; the simulator runs each list in order, an operation
starting when its stage is free and what it needs has arrived. The order in which operations can run
depends on no time and is worked out once per schedule and size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ._check import non_negative, one_of, positive_int
from ._schedules import SCHEDULES, Op, ScheduleName
from .errors import ContradictionError, InvalidFieldError


@dataclass(frozen=True, slots=True)
class StageTime:
    """Seconds of one stage (all its chunks together) for one microbatch.

    Attributes:
        forward_s: forward pass.
        backward_s: whole backward pass.
        weight_s: part of `backward_s` that is the weight gradient; only the zero-bubble
            schedules move it.
    """

    forward_s: float
    backward_s: float
    weight_s: float = 0.0

    def __post_init__(self) -> None:
        non_negative("forward_s", self.forward_s)
        non_negative("backward_s", self.backward_s)
        non_negative("weight_s", self.weight_s)
        if self.weight_s > self.backward_s:
            raise InvalidFieldError("weight_s", self.weight_s, f"up to {self.backward_s}")


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a simulated step took.

    Attributes:
        seconds: from the first operation of any stage to the last of any.
        span_s: the longest that one stage takes from its own first operation to its own last:
            what a step costs when stages enter the next one without waiting for each other
            (ZB-H2 with post-validated optimizer steps).
        bubble: share of the stages' time that they wait.
        in_flight: per stage, the most microbatches (chunks count 1/v) whose activations are held.
        timeline: per stage, (operation, start, end).
    """

    seconds: float
    span_s: float
    bubble: float
    in_flight: tuple[float, ...]
    timeline: tuple[tuple[tuple[Op, float, float], ...], ...]


def simulate(
    schedule: ScheduleName,
    stages: Sequence[StageTime],
    microbatches: int,
    *,
    chunks: int = 1,
    transfer_s: float = 0.0,
) -> PipelineResult:
    """Run a schedule over unequal stages.

    Args:
        schedule: its name.
        stages: seconds per stage and microbatch.
        microbatches: microbatches of the step.
        chunks: virtual stages per stage (interleaved, circular).
        transfer_s: seconds to pass activations or gradients to the neighbour.

    Returns:
        Step time, bubble, memory in flight and the timeline.

    Raises:
        InvalidFieldError: an unknown schedule or a size below one.
        ContradictionError: a schedule that does not exist for these sizes.
    """
    one_of("schedule", schedule, tuple(SCHEDULES))
    p = positive_int("stages", len(stages))
    positive_int("microbatches", microbatches)
    positive_int("chunks", chunks)
    if chunks > 1 and schedule not in ("interleaved", "circular"):
        raise ContradictionError(
            [f"schedule={schedule!r}", f"chunks={chunks}"],
            "this schedule has one chunk per stage",
            "Set chunks=1 or schedule='interleaved'",
        )
    split = schedule.startswith("zb")
    steps = _steps(schedule, p, microbatches, chunks)
    starts, ends = _times(steps, _durations(schedule, stages, chunks), p, transfer_s)
    timeline: list[list[tuple[Op, float, float]]] = [[] for _ in range(p)]
    for step, start, end in zip(steps, starts, ends, strict=True):
        timeline[step.stage].append((step.op, start, end))
    seconds = max(ends)
    busy = sum(end - start for line in timeline for _, start, end in line)
    return PipelineResult(
        seconds=seconds,
        span_s=max(line[-1][2] - line[0][1] for line in timeline),
        bubble=1.0 - busy / (p * seconds) if seconds else 0.0,
        in_flight=tuple(_in_flight(line, chunks, split) for line in timeline),
        timeline=tuple(tuple(line) for line in timeline),
    )


class _Step(NamedTuple):
    """One operation in an order that every operation's input precedes.

    Attributes:
        op: the operation.
        stage: where it runs.
        source: place of the operation that makes its input; -1 for the first forwards.
        hops: 1 where the input comes from another stage, else 0.
    """

    op: Op
    stage: int
    source: int
    hops: int


@lru_cache(maxsize=64)
def _steps(schedule: ScheduleName, p: int, microbatches: int, chunks: int) -> tuple[_Step, ...]:
    """All operations in an order in which they can run; it depends on no time.

    Raises:
        ContradictionError: a schedule whose stages wait for each other.
    """
    orders = SCHEDULES[schedule](p, microbatches, chunks)
    place: dict[tuple[str, int, int, int], int] = {}
    cursor = [0] * p
    steps: list[_Step] = []
    total = sum(len(order) for order in orders)
    while len(steps) < total:
        before = len(steps)
        for stage, order in enumerate(orders):
            while cursor[stage] < len(order):
                op = order[cursor[stage]]
                needs = _needs(op, stage, p, chunks)
                source = -1 if needs is None else place.get(needs)
                if source is None:
                    break
                place[op.kind, stage, op.microbatch, op.chunk] = len(steps)
                hops = int(needs is not None and needs[1] != stage)
                steps.append(_Step(op, stage, source, hops))
                cursor[stage] += 1
        if len(steps) == before:
            raise ContradictionError(
                [f"schedule={schedule!r}", f"microbatches={microbatches}"],
                "the stages wait for each other",
                "Use more microbatches",
            )
    return tuple(steps)


def _needs(op: Op, stage: int, stages: int, chunks: int) -> tuple[str, int, int, int] | None:
    """(kind, stage, microbatch, chunk) of the operation that makes an operation's input."""
    if op.kind == "W":
        return "B", stage, op.microbatch, op.chunk
    forward = op.kind == "F"
    if stage != (0 if forward else stages - 1):
        return op.kind, stage - 1 if forward else stage + 1, op.microbatch, op.chunk
    if forward:
        return ("F", stages - 1, op.microbatch, op.chunk - 1) if op.chunk else None
    if op.chunk < chunks - 1:
        return "B", 0, op.microbatch, op.chunk + 1
    # The loss turns around on the last stage.
    return "F", stage, op.microbatch, op.chunk


def _durations(
    schedule: ScheduleName, stages: Sequence[StageTime], chunks: int
) -> list[dict[str, float]]:
    split = schedule.startswith("zb")
    return [
        {
            "F": stage.forward_s / chunks,
            "B": (stage.backward_s - (stage.weight_s if split else 0.0)) / chunks,
            "W": stage.weight_s,
        }
        for stage in stages
    ]


def _times(
    steps: Sequence[_Step], durations: Sequence[Mapping[str, float]], p: int, transfer_s: float
) -> tuple[list[float], list[float]]:
    """When each step starts and ends: once its stage is free and its input has arrived."""
    free = [0.0] * p
    starts: list[float] = []
    ends: list[float] = []
    for op, stage, source, hops in steps:
        start = free[stage]
        if source >= 0:
            start = max(start, ends[source] + hops * transfer_s)
        starts.append(start)
        free[stage] = start + durations[stage][op.kind]
        ends.append(free[stage])
    return starts, ends


def _in_flight(line: Sequence[tuple[Op, float, float]], chunks: int, split: bool) -> float:
    held = most = 0
    last = "W" if split else "B"
    for op, _, _ in line:
        if op.kind == "F":
            held += 1
            most = max(most, held)
        elif op.kind == last:
            held -= 1
    return most / chunks


def pipeline_closed_form(
    schedule: ScheduleName,
    stages: int,
    microbatches: int,
    stage: StageTime,
    *,
    chunks: int = 1,
) -> float:
    """Step seconds on equal stages without transfers: the oracle of the simulator.

    GPipe and 1F1B take (m + p - 1)(F + B); interleaving divides the bubble by v; ZB-H1 has the
    bubble (p - 1)(F + B - W), ZB-H2 (p - 1)(F + B - 2W) with B the input gradient alone, both
    where F, B and W are equal; the circular pipeline fills and drains once.

    Args:
        schedule: its name.
        stages: p.
        microbatches: m.
        stage: seconds of each stage.
        chunks: v.

    Returns:
        Seconds. Sources: SC21 section 2.2; arXiv:2401.10241, table 2.
    """
    p, m, v = stages, microbatches, chunks
    f, b, w = stage.forward_s, stage.backward_s, stage.weight_s
    if schedule in ("gpipe", "1f1b"):
        return (m + p - 1) * (f + b)
    if schedule in ("interleaved", "circular"):
        return (m + (p - 1) / v) * (f + b)
    bubble = (p - 1) * (f + (b - w) - (w if schedule == "zb-h1" else 2 * w))
    return m * (f + b) + max(0.0, bubble)


def flow_shop(stage_s: Sequence[float], microbatches: int, chunks: int = 1) -> float:
    """Step seconds of GPipe or 1F1B over unequal stages, without simulation.

    Every microbatch passes all stages and the slowest one sets the pace:
    sum(t) + (m - 1) max(t). The estimator uses it where thousands of plans are compared.

    Args:
        stage_s: forward plus backward seconds per stage and microbatch.
        microbatches: m.
        chunks: v; the fill shrinks by it.
    """
    slowest = max(stage_s)
    return microbatches * slowest + (sum(stage_s) - slowest) / chunks
