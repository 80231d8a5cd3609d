"""Pipeline schedules by event simulation: unequal stages, transfers, and what is in flight.

A schedule is a list of operations per stage; the simulator runs each list in order, an operation
starting when its stage is free and what it needs has arrived. Splitting the backward pass into B
(gradient of the input) and W (gradient of the weights) gives the zero-bubble schedules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ._check import non_negative, one_of, positive_int
from .errors import ContradictionError, InvalidFieldError

ScheduleName = Literal["gpipe", "1f1b", "interleaved", "circular", "zb-h1", "zb-h2"]
OpKind = Literal["F", "B", "W"]


class Op(NamedTuple):
    """One operation of a stage.

    Attributes:
        kind: "F" forward, "B" backward (of the input, where W is apart), "W" weight gradient.
        microbatch: which microbatch.
        chunk: which of the stage's virtual stages.
    """

    kind: OpKind
    microbatch: int
    chunk: int = 0


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


def gpipe(stages: int, microbatches: int) -> list[list[Op]]:
    """All forwards, then all backwards (Huang et al., arXiv:1811.06965)."""
    order = [Op("F", i) for i in range(microbatches)]
    order += [Op("B", i) for i in reversed(range(microbatches))]
    return [list(order) for _ in range(stages)]


def one_f_one_b(stages: int, microbatches: int) -> list[list[Op]]:
    """Warm-up of p - 1 - stage forwards, then one forward, one backward (PipeDream-flush)."""
    out: list[list[Op]] = []
    for stage in range(stages):
        warm = min(stages - 1 - stage, microbatches)
        ops = [Op("F", i) for i in range(warm)]
        for i in range(microbatches - warm):
            ops += [Op("F", warm + i), Op("B", i)]
        ops += [Op("B", i) for i in range(microbatches - warm, microbatches)]
        out.append(ops)
    return out


def interleaved(stages: int, microbatches: int, chunks: int) -> list[list[Op]]:
    """Interleaved 1F1B (Narayanan et al. SC21, section 2.2.2).

    Each stage holds every p-th slice of the model; microbatches go in rounds of p.

    Raises:
        ContradictionError: microbatches are no multiple of the stages.
    """
    if microbatches % stages:
        raise ContradictionError(
            [f"microbatches={microbatches}", f"stages={stages}"],
            "interleaving works in rounds of as many microbatches as stages",
            f"Use a multiple of {stages}",
        )
    total = microbatches * chunks

    def at(step: int, forward: bool) -> Op:
        round_, rest = divmod(step, stages * chunks)
        chunk, offset = divmod(rest, stages)
        if not forward:
            chunk = chunks - 1 - chunk
        return Op("F" if forward else "B", round_ * stages + offset, chunk)

    out: list[list[Op]] = []
    for stage in range(stages):
        warm = min(2 * (stages - 1 - stage) + (chunks - 1) * stages, total)
        ops = [at(i, True) for i in range(warm)]
        for i in range(total - warm):
            ops += [at(warm + i, True), at(i, False)]
        ops += [at(i, False) for i in range(total - warm, total)]
        out.append(ops)
    return out


def circular(stages: int, microbatches: int, chunks: int) -> list[list[Op]]:
    """Circular (breadth-first) pipeline: each chunk runs all microbatches before the next.

    Microbatches travel `chunks` times around the ring of stages, forward as a whole and then
    backward as a whole, as a scan over stages in JAX does (MaxText, praxis).
    """
    if microbatches < stages:
        raise ContradictionError(
            [f"microbatches={microbatches}", f"stages={stages}"],
            "a microbatch would come around before its stage is free",
            f"Use at least {stages} microbatches",
        )
    order = [Op("F", i, c) for c in range(chunks) for i in range(microbatches)]
    order += [Op("B", i, c) for c in reversed(range(chunks)) for i in reversed(range(microbatches))]
    return [list(order) for _ in range(stages)]


def zero_bubble(stages: int, microbatches: int, *, eager: bool) -> list[list[Op]]:
    """Zero-bubble schedules with B and W apart (Qi et al., arXiv:2401.10241).

    H1 keeps 1F1B's order and memory and moves the W of the warm-up into the cool-down; H2
    (`eager`) runs up to 2p - 1 forwards ahead, which fills the bubble and holds twice the
    activations.
    """
    out: list[list[Op]] = []
    for stage in range(stages):
        warm = min(2 * (stages - stage) - 1 if eager else stages - stage, microbatches)
        # W runs behind B, so that the stages behind get their B sooner: on H2 until this stage's
        # share of the cool-down is reached.
        behind = 2 * stage if eager else stage
        ops = [Op("F", i) for i in range(warm)]
        forwards, weights = warm, 0
        for i in range(microbatches):
            ops.append(Op("B", i))
            if i >= behind:
                ops.append(Op("W", weights))
                weights += 1
            if forwards < microbatches:
                ops.append(Op("F", forwards))
                forwards += 1
        ops += [Op("W", i) for i in range(weights, microbatches)]
        out.append(ops)
    return out


_SCHEDULES: Mapping[str, Callable[[int, int, int], list[list[Op]]]] = {
    "gpipe": lambda p, m, v: gpipe(p, m),
    "1f1b": lambda p, m, v: one_f_one_b(p, m),
    "interleaved": interleaved,
    "circular": circular,
    "zb-h1": lambda p, m, v: zero_bubble(p, m, eager=False),
    "zb-h2": lambda p, m, v: zero_bubble(p, m, eager=True),
}


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
    one_of("schedule", schedule, tuple(_SCHEDULES))
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
    orders = _SCHEDULES[schedule](p, microbatches, chunks)
    durations = [
        {
            "F": stage.forward_s / chunks,
            "B": (stage.backward_s - (stage.weight_s if split else 0.0)) / chunks,
            "W": stage.weight_s,
        }
        for stage in stages
    ]
    done: dict[tuple[str, int, int, int], float] = {}
    free = [0.0] * p
    cursor = [0] * p
    timeline: list[list[tuple[Op, float, float]]] = [[] for _ in range(p)]
    remaining = sum(len(order) for order in orders)
    while remaining:
        progressed = False
        for stage in range(p):
            while cursor[stage] < len(orders[stage]):
                op = orders[stage][cursor[stage]]
                ready = _ready(op, stage, p, chunks, done, transfer_s)
                if ready is None:
                    break
                start = max(ready, free[stage])
                end = start + durations[stage][op.kind]
                done[op.kind, stage, op.microbatch, op.chunk] = end
                free[stage] = end
                timeline[stage].append((op, start, end))
                cursor[stage] += 1
                remaining -= 1
                progressed = True
        if not progressed:
            raise ContradictionError(
                [f"schedule={schedule!r}", f"microbatches={microbatches}"],
                "the stages wait for each other",
                "Use more microbatches",
            )
    seconds = max(free)
    busy = sum(end - start for line in timeline for _, start, end in line)
    return PipelineResult(
        seconds=seconds,
        span_s=max(line[-1][2] - line[0][1] for line in timeline),
        bubble=1.0 - busy / (p * seconds) if seconds else 0.0,
        in_flight=tuple(_in_flight(line, chunks, split) for line in timeline),
        timeline=tuple(tuple(line) for line in timeline),
    )


def _ready(
    op: Op,
    stage: int,
    stages: int,
    chunks: int,
    done: Mapping[tuple[str, int, int, int], float],
    transfer_s: float,
) -> float | None:
    """When an operation's input is there, or None if it is not made yet."""
    if op.kind == "W":
        return done.get(("B", stage, op.microbatch, op.chunk))
    forward = op.kind == "F"
    first = stage == 0 if forward else stage == stages - 1
    if not first:
        source = (op.kind, stage - 1 if forward else stage + 1, op.microbatch, op.chunk)
    elif forward and op.chunk > 0:
        source = ("F", stages - 1, op.microbatch, op.chunk - 1)
    elif not forward and op.chunk < chunks - 1:
        source = ("B", 0, op.microbatch, op.chunk + 1)
    elif forward:
        return 0.0
    else:
        # The loss turns around on the last stage without a transfer.
        return done.get(("F", stage, op.microbatch, op.chunk))
    end = done.get(source)
    # One stage alone passes nothing on.
    return None if end is None else end + (transfer_s if stages > 1 else 0.0)


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
