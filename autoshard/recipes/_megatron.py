"""Tensor parallelism with the residual stream cut along the sequence.

Between the matrices that `tensor` cuts, norms, dropout and residual additions run on every device
in full. Cutting them along the sequence over the same devices stores each activation once, and an
all-reduce becomes a reduce-scatter behind a row and an all-gather before the next column, of the
same traffic (Korthikanti et al. 2022, section 4.2.2).
"""

from __future__ import annotations

from autoshard.recipes._context import Context
from autoshard.recipes._flow import Flow, Unit
from autoshard.recipes._tensor import tensor
from autoshard.rules import FactorKind, OpRule
from autoshard.tracing import TIE, Op


def megatron(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Cut weights over a unit as `tensor` does, and what lies between them along the sequence.

    The sequence is the dimension of a row's result that comes from its activations and is not the
    batch; where there is none, as in a stack of dense layers, the batch is cut instead.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes of `tensor`, and one on sums that no dimension of the sequence could take up.
    """
    notes = tensor(flow, context, unit)
    left: list[int] = []
    for op in flow.program.ops:
        rule = flow.ruled.rules[op.id]
        if rule is None or not _sums_over(flow, op, rule, unit):
            continue
        weights = context.weight_operands(op, rule)
        if len(weights) != 1:
            continue
        d = _sequence_dim(flow, context, op, rule, weights[0], unit)
        if d is None:
            left.append(op.id)
            continue
        _cut_readers(flow, context, op, d, unit)
    flow.spread(unit, among=context.batch_ops)
    if left and flow.mesh.size_of(unit) > 1:
        shapes = sorted({flow.program.values[flow.program.ops[i].results[0]].shape for i in left})
        notes.append(
            f"{len(left)} results of rows, of shape {', '.join(map(str, shapes[:3]))}, have no "
            f"dimension besides their features that {'×'.join(unit)} = {flow.mesh.size_of(unit)} "
            "divides: they are all-reduced, and the activations behind them stay whole"
        )
    return notes


def _sums_over(flow: Flow, op: Op, rule: OpRule, unit: Unit) -> bool:
    """Whether an op's result is a partial sum over the unit."""
    label = flow.labels.get(op.id, {})
    names = rule.of_kind(FactorKind.REDUCTION)
    return any(unit[0] in label.get(name, ()) for name in names)


def _sequence_dim(
    flow: Flow, context: Context, op: Op, rule: OpRule, weight: int, unit: Unit
) -> int | None:
    """The dimension of a row's result along which the activations behind it are cut."""
    result = op.results[0]
    shape = flow.program.values[result].shape
    n = flow.mesh.size_of(unit)
    inside = {name for dim in rule.operands[weight] for name in dim}
    taken = flow.mesh.size_of(
        axis for axes in flow.labels.get(op.id, {}).values() for axis in axes if axis not in unit
    )
    batch = context.batch_dim(result)
    fallback = None
    for d, dim in enumerate(rule.results[0]):
        if not dim or set(dim) & inside or shape[d] % n:
            continue
        if d != batch:
            return d
        if shape[d] % (n * taken) == 0:
            fallback = d
    return fallback


def _cut_readers(flow: Flow, context: Context, op: Op, d: int, unit: Unit) -> None:
    """Let the ops that read a row's result work on parts of its sequence."""
    for consumer, place in flow.program.consumers[op.results[0]]:
        rule = flow.ruled.rules[consumer]
        if rule is None or consumer not in context.batch_ops or flow.labelled(consumer, unit):
            continue
        name = flow.factor_at(consumer, rule, rule.operands[place][d], unit)
        if name is not None:
            kind = "loop" if flow.program.ops[consumer].primitive == TIE else "activations"
            flow.put(consumer, name, unit, f"{kind} cut along the sequence, dimension {d}")
