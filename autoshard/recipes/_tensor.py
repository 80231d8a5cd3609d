"""Tensor parallelism from the data flow: the two rules of Redco, without looking at names.

A weight whose activations arrive sharded on the contracted dimension is cut along it (*row*: the
result is a partial sum); any other weight is cut along a dimension of its output (*column*). So
dense layers alternate, query, key and value projections are column and the output projection is
row, and everything in between (heads, activations, their gradients) follows. Redco (Tan et al.
2023, section 3.2) derives the same pattern from parameter names. Embeddings are cut by vocabulary
and looked up with a mask (Megatron-LM, Shoeybi et al. 2019, section 3); so are the output head
and the cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autoshard.plan import human_bytes
from autoshard.recipes._context import Context
from autoshard.recipes._flow import Flow, Unit, Verdict
from autoshard.recipes._notes import bytes_per_device, ways_out
from autoshard.rules import FactorKind, OpRule
from autoshard.tracing import Op


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found out about weights so far, by the op of the argument behind each.

    Args:
        uncut: Those that could not be cut by column, and why.
        narrow: Tables that were cut by columns, because their rows do not divide.
    """

    uncut: dict[int, str] = field(default_factory=dict)
    narrow: set[int] = field(default_factory=set)


def tensor(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Cut weights and the activations between them over a unit.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on weights that could not be cut by column.
    """
    seen = _Seen()

    def decide(op: Op, rule: OpRule) -> Verdict:
        weights = context.weight_operands(op, rule)
        if len(weights) != 1:
            return None
        return _weight_op(flow, context, op, rule, weights[0], unit, seen)

    # The gradient of a table that is cut by columns would cut the activations by their features.
    flow.modest = context.gradient_ops
    program = flow.program
    weights = {program.values[v].producer for v in context.parameter_values}
    flow.spread(unit, decide, context.batch_ops | weights)
    everything = {op.id for op in program.ops}
    # State follows its weight before it follows a gradient.
    flow.spread(unit, among=everything - context.batch_ops)
    skipped = {
        op.id
        for op in program.ops
        if (rule := flow.ruled.rules[op.id]) is not None
        and not flow.labelled(op.id, unit)
        and decide(op, rule) == "skip"
    }
    flow.spread(unit, among=everything - skipped)
    notes = _uncut_notes(flow, seen.uncut, unit)
    return notes[:4] + ([f"… and {len(notes) - 4} more arrays"] if len(notes) > 4 else [])


def _uncut_notes(flow: Flow, uncut: dict[int, str], unit: Unit) -> list[str]:
    """Weights that stay whole, with their bytes and what can be done; pinned ones are meant so."""
    program, n = flow.program, flow.mesh.size_of(unit)
    notes: list[str] = []
    for leaf in program.arguments:
        if leaf.op not in uncut or flow.is_held(leaf.op) or n == 1:
            continue
        notes.append(
            f"{leaf.path} is not cut by column over {'×'.join(unit)}: {uncut[leaf.op]}, "
            f"{human_bytes(bytes_per_device(flow, leaf))} on every device; "
            f"{ways_out(flow, leaf, unit)}"
        )
    return notes


def _weight_op(
    flow: Flow,
    context: Context,
    op: Op,
    rule: OpRule,
    index: int,
    unit: Unit,
    seen: _Seen,
) -> Verdict:
    """Row, column, by rows of a table, or nothing."""
    weight = op.operands[index]
    assert isinstance(weight, int)
    inside = {name for dim in rule.operands[index] for name in dim}
    others = {
        name for i, dims in enumerate(rule.operands) if i != index for dim in dims for name in dim
    }
    for i, operand in enumerate(op.operands):
        if i == index or not isinstance(operand, int):
            continue
        d = flow.where(operand, unit)
        if d is not None:
            name = flow.factor_at(op.id, rule, rule.operands[i][d], unit)
            if name in inside and flow.can_put(op.id, name, unit):
                return name, "row: the activations arrive cut along the contracted dimension"
            return None  # the activations are cut elsewhere: follow them
    placed = flow.where(weight, unit)
    if placed is not None:
        name = flow.factor_at(op.id, rule, rule.operands[index][placed], unit)
        lookup = name is not None and name not in others
        if name is None or (rule.factors[name].kind is FactorKind.REDUCTION and not lookup):
            return "skip"  # summing over a dimension that only the weight has cut costs more
        if context.parameter_values[weight] in seen.narrow:
            flow.muted.update(op.results)
            return name, "by columns of the table, handed on whole"
        return None
    return _new_weight(flow, context, op, rule, index, inside, others, unit, seen)


def _new_weight(
    flow: Flow,
    context: Context,
    op: Op,
    rule: OpRule,
    index: int,
    inside: set[str],
    others: set[str],
    unit: Unit,
    seen: _Seen,
) -> Verdict:
    """A weight that nothing has cut yet."""
    weight = op.operands[index]
    assert isinstance(weight, int)
    if context.parameter_values[weight] in seen.uncut:
        return "skip"  # its gradient's ops would cut it along what the forward pass contracts
    order = [name for dim in rule.operands[index] for name in dim if name in inside - others]
    rows = [n for n in order if rule.factors[n].kind is FactorKind.REDUCTION]
    columns = [n for n in order if rule.factors[n].kind is FactorKind.PARALLEL]
    n = flow.mesh.size_of(unit)
    for name in rows:
        if flow.can_put(op.id, name, unit):
            return name, f"by rows of the table ({rule.factors[name].size})"
    if rows:  # a table whose rows do not divide: cut its columns, but hand on whole rows
        for name in columns:
            if flow.can_put(op.id, name, unit):
                flow.muted.update(op.results)
                seen.narrow.add(context.parameter_values[weight])
                size = rule.factors[rows[0]].size
                return name, f"by columns of the table: its {size} rows do not divide by {n}"
    if columns and flow.can_put(op.id, columns[0], unit):
        return columns[0], f"column: output dimension of size {rule.factors[columns[0]].size}"
    size = rule.factors[columns[0]].size if columns else None
    seen.uncut.setdefault(
        context.parameter_values[weight],
        f"its output dimension ({size}) does not divide by {n}" if size else "it has no output",
    )
    return "skip"
