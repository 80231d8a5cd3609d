"""What a pipeline adds to a step: unequal stages, the bubble, and transfers between stages.

Stages differ by ceil(L/p) layers, by the head on the last one and the embedding on the first. For
GPipe, 1F1B and interleaving the step is a flow shop, sum(t)/v + (m - 1/v) max(t), which the event
simulation confirms; the other schedules are simulated, up to the point from which every further
microbatch costs the same.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from ._parallel import Parallelism
from ._pipeline import StageTime, simulate
from ._schedules import ScheduleName
from ._step_layer import LayerCost
from .errors import ContradictionError

CLOSED_FORM = ("gpipe", "1f1b", "interleaved")


@dataclass(frozen=True, slots=True)
class PipelineTime:
    """Seconds that stages and their order add.

    Attributes:
        slowest_s: one microbatch on the slowest stage, forward and backward.
        imbalance_s: what the slowest stage takes beyond an average one, over the step.
        bubble_s: fill and drain.
        transfer_s: activations and gradients between stages, as far as they show.
    """

    slowest_s: float
    imbalance_s: float = 0.0
    bubble_s: float = 0.0
    transfer_s: float = 0.0


def pipeline_time(
    layers: int,
    plan: Parallelism,
    layer: LayerCost,
    head_s: float,
    embed_s: float,
    hop_s: float,
    microbatches: int,
) -> PipelineTime:
    """Lay the layers onto the stages and run the schedule.

    Args:
        layers: layers of the model.
        plan: degrees and schedule.
        layer: seconds of one layer and microbatch.
        head_s: seconds of head and loss per microbatch, forward and backward.
        embed_s: the same of the embedding.
        hop_s: visible seconds of one transfer forward and one backward.
        microbatches: m.
    """
    each = layer.seconds
    if plan.pp == 1:
        return PipelineTime(layers * each + head_s + embed_s)
    p, v, m = plan.pp, plan.vpp, microbatches
    most = math.ceil(layers / (p * v)) * v
    slowest = max(most * each, (layers - most * (p - 1)) * each + head_s)
    imbalance = m * (slowest - layers / p * each)
    hops = hop_s * v
    if plan.schedule in CLOSED_FORM:
        rest = max(0.0, layers * each + head_s + embed_s - slowest)
        return PipelineTime(slowest, imbalance, (rest + (p - 1) * hops) / v, m * hops)
    forward = layer.forward_s / each if each else 1.0
    first = min(most, layers) * each + embed_s
    middle = min(layers / p, most) * each
    stages = tuple(
        _stage(seconds, forward, layer.weight_s / each if each else 0.0)
        for seconds in (first, *(middle for _ in range(p - 2)), slowest)
    )
    whole = simulated_seconds(cast("ScheduleName", plan.schedule), stages, m, v, hop_s / 2)
    slowest = max(stage.forward_s + stage.backward_s for stage in stages)
    return PipelineTime(slowest, m * (slowest - layers / p * each), max(0.0, whole - m * slowest))


def _stage(seconds: float, forward: float, weight: float) -> StageTime:
    back = seconds * (1.0 - forward)
    return StageTime(seconds * forward, back, min(seconds * weight, back))


@lru_cache(maxsize=512)
def simulated_seconds(
    schedule: ScheduleName,
    stages: tuple[StageTime, ...],
    microbatches: int,
    chunks: int,
    transfer_s: float,
) -> float:
    """Step seconds by event simulation, extrapolated once the pipeline runs steadily.

    Beyond some 2p microbatches these schedules repeat themselves: the slowest stage is busy all the
    time, and one more microbatch adds its seconds.

    Args:
        schedule: its name.
        stages: seconds per stage and microbatch.
        microbatches: m.
        chunks: v.
        transfer_s: seconds of one transfer.

    Raises:
        ContradictionError: a schedule that needs more microbatches.
    """
    if schedule == "circular" and microbatches < len(stages):
        raise ContradictionError(
            ["schedule='circular'", f"microbatches={microbatches}", f"pp={len(stages)}"],
            "a microbatch would come around before its stage is free",
            f"Use at least {len(stages)} microbatches: a larger batch or a smaller microbatch",
        )
    shown = min(microbatches, 2 * len(stages) + 2)
    found = simulate(schedule, stages, shown, chunks=chunks, transfer_s=transfer_s)
    # Zero-bubble H2 lets stages enter the next step without waiting for each other.
    seconds = found.span_s if schedule == "zb-h2" else found.seconds
    slowest = max(stage.forward_s + stage.backward_s for stage in stages)
    return seconds + (microbatches - shown) * slowest
