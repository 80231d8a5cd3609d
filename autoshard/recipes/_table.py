"""Embedding tables cut over the devices that otherwise share the batch.

The tables of a recommendation model are too large for one device, and each example reads a few of
their rows (DLRM, Naumov et al. 2019, section 4). A stack of tables is cut by table: rows that were
looked up are exchanged by an all-to-all. A single table is cut by rows: every device looks up the
whole batch in its part, and the sum over devices is scattered over the batch. The layers around
are data parallel over the same devices.
"""

from __future__ import annotations

from autoshard.plan import human_bytes
from autoshard.recipes._context import Context
from autoshard.recipes._data_parallel import data_parallel
from autoshard.recipes._expert import cut_gradients_and_state, stacked_factor
from autoshard.recipes._flow import Flow, Unit
from autoshard.rules import FactorKind, OpRule
from autoshard.tracing import Op


def table(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Cut tables over a unit, and the batch outside of the lookups.

    A table that has no more rows than are looked up in it stays whole: its gradient is smaller
    than what would be exchanged.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on tables that could not be cut, or that there are none.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    lookups = _lookups(context)
    n = flow.mesh.size_of(unit)
    whole: dict[int, None] = {}
    for op, rule, weight in lookups:
        table_value = op.operands[weight]
        assert isinstance(table_value, int)
        inside = {name for dim in rule.operands[weight] for name in dim}
        rows = [name for name in _rows(rule, weight) if name in inside]
        stack = stacked_factor(rule, weight)
        if stack is None and _looked_up(flow, op, rule, inside) >= rule.factors[rows[0]].size:
            continue
        columns = [
            dim[0]
            for dim in rule.operands[weight]
            if len(dim) == 1 and rule.factors[dim[0]].kind is FactorKind.PARALLEL
        ]
        if stack is not None and flow.put(op.id, stack, unit, "by table"):
            continue
        size = rule.factors[rows[0]].size
        if flow.put(op.id, rows[0], unit, f"by rows of the table ({size})"):
            continue
        why = f"by columns of the table: its {size} rows do not divide by {n}"
        if not any(flow.put(op.id, name, unit, why) for name in columns if name != stack):
            whole[context.parameter_values[table_value]] = None
    cut_gradients_and_state(flow, context, unit)
    notes = _notes(flow, context, unit, list(whole), bool(lookups))
    return notes + data_parallel(flow, context, unit, strict=True)


def _lookups(context: Context) -> list[tuple[Op, OpRule, int]]:
    """Ops that look up rows of a parameter, with their rule and the operand that is the table."""
    found: list[tuple[Op, OpRule, int]] = []
    for op in context.ruled.program.ops:
        rule = context.ruled.rules[op.id]
        if rule is None:
            continue
        weights = context.weight_operands(op, rule)
        if len(weights) == 1 and _rows(rule, weights[0]):
            found.append((op, rule, weights[0]))
    return found


def _rows(rule: OpRule, weight: int) -> list[str]:
    """Factors of a weight that no other operand has and that the result sums over: its rows."""
    others = {
        name for i, dims in enumerate(rule.operands) if i != weight for dim in dims for name in dim
    }
    return [
        name
        for dim in rule.operands[weight]
        for name in dim
        if name not in others and rule.factors[name].kind is FactorKind.REDUCTION
    ]


def _looked_up(flow: Flow, op: Op, rule: OpRule, inside: set[str]) -> int:
    """How many rows an op looks up."""
    count = 1
    for name in {name for dim in rule.results[0] for name in dim} - inside:
        count *= rule.factors[name].size
    return count


def _notes(
    flow: Flow, context: Context, unit: Unit, whole: list[int], any_lookups: bool
) -> list[str]:
    program, n = flow.program, flow.mesh.size_of(unit)
    if not any_lookups:
        return [
            "no op looks up rows of a parameter: 'table' found no tables and does what 'dp' does"
        ]
    leaves = {leaf.op: leaf for leaf in program.arguments}
    return [
        f"{leaves[op_id].path} is kept whole on every device "
        f"({human_bytes(program.argument_value(leaves[op_id]).nbytes)}): {'×'.join(unit)} = {n} "
        "divides neither its rows nor its columns. Mend it: pad its rows to "
        f"{-(-program.argument_value(leaves[op_id]).shape[0] // n) * n}"
        for op_id in whole
    ]
