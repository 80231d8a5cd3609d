"""Pipeline schedules by event simulation: unequal stages, transfers, and what is in flight.

A schedule is a list of operations per stage; the simulator runs each list in order, an operation
starting when its stage is free and what it needs has arrived.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ._check import non_negative, one_of, positive_int
from ._run_order import Array, RunOrder, run_order
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


@dataclass(frozen=True, slots=True, eq=False)
class PipelineResult:
    """What a simulated step took.

    Attributes:
        order: the operations, in an order in which they can run.
        starts: seconds at which each of them starts.
        ends: seconds at which each of them ends.
        chunks: virtual stages per stage.
    """

    order: RunOrder
    starts: Array
    ends: Array
    chunks: int

    @property
    def seconds(self) -> float:
        """From the first operation of any stage to the last of any."""
        return float(self.ends.max())

    @property
    def span_s(self) -> float:
        """The longest that one stage takes from its own first operation to its own last.

        What a step costs when stages enter the next one without waiting for each other (ZB-H2
        with post-validated optimizer steps).
        """
        return float(max(self.ends[i[-1]] - self.starts[i[0]] for i in self.order.lines))

    @property
    def bubble(self) -> float:
        """Share of the stages' time that they wait."""
        whole = len(self.order.lines) * self.seconds
        return 1.0 - float((self.ends - self.starts).sum()) / whole if whole else 0.0

    @property
    def in_flight(self) -> tuple[float, ...]:
        """Per stage, the most microbatches (chunks count 1/v) whose activations are held."""
        split = any(op.kind == "W" for op in self.order.ops)
        return tuple(_in_flight(line, self.chunks, split) for line in self.timeline)

    @property
    def timeline(self) -> tuple[tuple[tuple[Op, float, float], ...], ...]:
        """Per stage, (operation, start, end)."""
        times = (self.starts.tolist(), self.ends.tolist())
        runs = list(zip(self.order.ops, *times, strict=True))
        return tuple(tuple(runs[i] for i in line) for line in self.order.lines)


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
    order = run_order(schedule, p, microbatches, chunks)
    starts, ends = order.times(_durations(schedule, stages, chunks), transfer_s)
    return PipelineResult(order, starts, ends, chunks)


def _durations(schedule: ScheduleName, stages: Sequence[StageTime], chunks: int) -> Array:
    """(stages, kinds) seconds of one operation."""
    split = schedule.startswith("zb")
    return np.array(
        [
            (
                stage.forward_s / chunks,
                (stage.backward_s - (stage.weight_s if split else 0.0)) / chunks,
                stage.weight_s,
            )
            for stage in stages
        ]
    )


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
