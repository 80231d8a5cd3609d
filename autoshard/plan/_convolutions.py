"""Convolutions whose shards compute their part as they are: written out, collective or not.

A partitioner that is free to choose cuts convolutions in ways that it gets wrong (see `_limits`):
channels by a number that does not divide the groups, height next to output channels. As an island
of its own a convolution computes what the label says, and nothing carries another cut into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoshard.plan._labelling import Labelling
from autoshard.plan._plan import ConstraintKey, Reduction
from autoshard.plan._reductions import all_reduce, runs_on_shards
from autoshard.plan._spec import Spec


def written_convolutions(
    labelling: Labelling, reductions: Mapping[int, Reduction]
) -> dict[int, Reduction]:
    """Cut convolutions that can be written out.

    Args:
        labelling: Labels of the program.
        reductions: Those that are written out already.

    Returns:
        Op id → its reduction, which combines nothing where no sum is cut.
    """
    return {
        op.id: all_reduce(labelling, op.id)
        for op in labelling.ruled.program.ops
        if op.primitive == "conv_general_dilated"
        and op.id not in reductions
        and any(labelling.labels.get(op.id, {}).values())
        and runs_on_shards(labelling, op)
    }


def pin_convolutions(
    labelling: Labelling,
    produced: Sequence[Spec],
    reductions: Mapping[int, Reduction],
    constraints: dict[ConstraintKey, tuple[Spec, ...]],
) -> None:
    """Pin everything about the other convolutions, also what lies as it should.

    Left to itself the partitioner may cut channels by a number that does not divide the groups,
    and then aborts or returns wrong numbers (seen with 3 groups on 4 devices, jax 0.10.2).

    Args:
        labelling: Labels of the program.
        produced: Spec of each value once it is combined.
        reductions: Those that are written out.
        constraints: Gets more.
    """
    for op in labelling.ruled.program.ops:
        if op.primitive != "conv_general_dilated" or op.id in reductions:
            continue
        for index, operand in enumerate(op.operands):
            if isinstance(operand, int):
                want = labelling.operand_spec(op.id, index)
                constraints.setdefault((op.id, "operand", index), (want,))
        constraints.setdefault((op.id, "result", 0), (produced[op.results[0]],))
