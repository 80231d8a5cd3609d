"""Pipeline schedules: which stage runs which operation, in which order.

Splitting the backward pass into B (gradient of the input) and W (gradient of the weights) gives the
zero-bubble schedules.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from .errors import ContradictionError

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


SCHEDULES: Mapping[str, Callable[[int, int, int], list[list[Op]]]] = {
    "gpipe": lambda p, m, v: gpipe(p, m),
    "1f1b": lambda p, m, v: one_f_one_b(p, m),
    "interleaved": interleaved,
    "circular": circular,
    "zb-h1": lambda p, m, v: zero_bubble(p, m, eager=False),
    "zb-h2": lambda p, m, v: zero_bubble(p, m, eager=True),
}
