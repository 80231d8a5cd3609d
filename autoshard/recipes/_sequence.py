"""Sequence parallelism: every device computes a part of each sequence.

Data is cut along the dimension after the batch, and so is everything computed from it. Attention
needs all keys and values: they are gathered, and their gradients reduce-scattered, while the
queries and the scores stay cut. Parameters are replicated and their gradients reduced, as under
data parallelism. Images are cut along their height; convolutions exchange borders.
"""

from __future__ import annotations

from autoshard.errors import SequenceError
from autoshard.recipes._context import Context, seed_batch
from autoshard.recipes._data_parallel import data_shapes
from autoshard.recipes._flow import Flow, Unit, Verdict
from autoshard.rules import FactorKind, OpRule
from autoshard.tracing import Op


def sequence(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Cut activations along the sequence.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Nothing to tell.

    Raises:
        SequenceError: No data argument has a second dimension that can be cut into as many parts.
    """
    seeded = [op_id for op_id in context.roles.data if seed_batch(flow, op_id, unit, skip=1)]
    if not seeded and flow.mesh.size_of(unit) > 1:
        raise SequenceError(data_shapes(context), "×".join(unit), flow.mesh.size_of(unit))

    def decide(op: Op, rule: OpRule) -> Verdict:
        return _queries(flow, op, rule, unit)

    flow.spread(unit, decide)
    return []


def _queries(flow: Flow, op: Op, rule: OpRule, unit: Unit) -> Verdict:
    """Of two sequences that meet, keep the one that is not summed over further on."""
    names: list[str] = []
    for index, operand in enumerate(op.operands):
        d = flow.where(operand, unit) if isinstance(operand, int) else None
        if d is None:
            continue
        name = flow.factor_at(op.id, rule, rule.operands[index][d], unit)
        if (
            name is not None
            and name not in names
            and rule.factors[name].kind is FactorKind.PARALLEL
            and flow.can_put(op.id, name, unit)
        ):
            names.append(name)
    if len(names) < 2:
        return None
    far = max(names, key=lambda name: _distance_to_sum(flow, op, rule, name))
    return far, "queries: each device has its part of them, and all keys"


def _distance_to_sum(flow: Flow, op: Op, rule: OpRule, name: str) -> int:
    """How many ops behind this one the nearest one is that sums over a factor.

    Of the scores of attention, keys are summed over in the softmax, at once; queries are not, but
    in the loss and in the gradients of weights.
    """
    program = flow.program
    front = {
        (result, d)
        for result, dims in zip(op.results, rule.results, strict=True)
        for d, dim in enumerate(dims)
        if name in dim
    }
    seen = set(front)
    distance = 0
    while front:
        distance += 1
        reached: set[tuple[int, int]] = set()
        for value, d in front:
            for consumer, place in program.consumers[value]:
                theirs = flow.ruled.rules[consumer]
                if theirs is None or not theirs.operands[place][d]:
                    continue
                major = theirs.operands[place][d][0]
                if theirs.factors[major].kind is not FactorKind.PARALLEL:
                    return distance
                reached.update(
                    (result, e)
                    for result, out in zip(
                        program.ops[consumer].results, theirs.results, strict=True
                    )
                    for e, dim in enumerate(out)
                    if major in dim
                )
        front = reached - seen
        seen |= front
    return distance + 1
