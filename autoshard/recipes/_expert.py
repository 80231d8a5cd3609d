"""Expert parallelism: each device keeps some of the experts and is sent the tokens for them.

An expert's weight is stacked with the others along a dimension over which the op that reads it is
batched: ``[E, d, f]`` with tokens ``[E, …, d]``. These ops, and what lies between them, are cut by
expert; everything else is data parallel over the same devices. Between the two lies an all-to-all
on the way to the experts and one on the way back, and as many for the gradients (GShard, Lepikhin
et al. 2020, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

from autoshard.recipes._context import Context
from autoshard.recipes._data_parallel import data_parallel
from autoshard.recipes._flow import Flow, Unit
from autoshard.rules import FactorKind, OpRule, RuledProgram
from autoshard.tracing import TIE, Op


def expert(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Cut experts over a unit, and the batch outside of them.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on weights whose number of experts does not divide, or that there are none.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    experts = find_experts(context)
    n = flow.mesh.size_of(unit)
    uneven: set[int] = set()
    for op_id, name in _between(context, experts).items():
        size = factor_size(flow, op_id, name)
        reason = f"by expert: {size} experts over {'×'.join(unit)} = {n}"
        if op_id in context.batch_ops and not flow.put(op_id, name, unit, reason):
            uneven.add(size)
    cut_gradients_and_state(flow, context, unit)
    notes = [
        f"a stack of {size} experts is not cut over {'×'.join(unit)} = {n}, which does not divide "
        "it: every device keeps all of them. Mend it: use an axis that divides, expert@AXIS"
        for size in sorted(uneven)
        if size % n
    ]
    if not experts:
        notes.append(
            "no op is batched over a dimension of its weight: 'expert' found no experts and does "
            "what 'dp' does"
        )
    return notes + data_parallel(flow, context, unit, strict=True)


def find_experts(context: Context) -> dict[int, str]:
    """Ops that read a stack of weights, one for each element of a dimension of the activations.

    Args:
        context: The program.

    Returns:
        Op id → the factor that counts the experts.
    """
    program = context.ruled.program
    found: dict[int, str] = {}
    for op in program.ops:
        rule = context.ruled.rules[op.id]
        if rule is None:
            continue
        weights = context.weight_operands(op, rule)
        if len(weights) != 1 or len(rule.operands[weights[0]]) < 3:
            continue
        name = stacked_factor(rule, weights[0])
        if name is not None:
            found[op.id] = name
    return found


def stacked_factor(rule: OpRule, weight: int) -> str | None:
    """A factor that a weight shares with the activations and the result: it counts weights."""
    others = {
        name
        for index, dims in enumerate(rule.operands)
        if index != weight
        for dim in dims
        for name in dim
    }
    results = {name for dim in rule.results[0] for name in dim}
    for dim in rule.operands[weight]:
        if len(dim) == 1 and dim[0] in others and dim[0] in results:
            factor = rule.factors[dim[0]]
            if factor.kind is FactorKind.PARALLEL and factor.size > 1:
                return dim[0]
    return None


def factor_size(flow: Flow, op_id: int, name: str) -> int:
    """Number of elements of a factor of an op."""
    rule = flow.ruled.rules[op_id]
    assert rule is not None
    return rule.factors[name].size


def cut_gradients_and_state(flow: Flow, context: Context, unit: Unit) -> None:
    """Let the stored weights, their gradients and their state follow the ops that read them."""
    outside = {op.id for op in flow.program.ops} - context.batch_ops
    cut = {op_id for op_id in flow.labels if flow.labelled(op_id, unit)}
    flow.spread(unit, among=outside | context.gradient_ops | cut)


def _between(context: Context, experts: dict[int, str]) -> dict[int, str]:
    """The ops of the experts, and those that lie between them: op id → factor of the experts."""
    after = _reach(context.ruled, experts, forward=True)
    before = _reach(context.ruled, experts, forward=False)
    between = {op_id: name for op_id, name in after.items() if before.get(op_id) == name}
    found = {**_kept_inputs(context, experts), **between, **experts}
    values = context.ruled.program.values
    for op_id in sorted(after):  # what merges results of experts has less to send on than they
        operands = [o for o in context.ruled.program.ops[op_id].operands if isinstance(o, int)]
        if len(operands) > 1 and all(values[o].producer in found for o in operands):
            found.setdefault(op_id, after[op_id])
    return dict(sorted(found.items()))


def _kept_inputs(context: Context, experts: dict[int, str]) -> dict[int, str]:
    """Ties that keep what the experts read for the gradients of their weights, and for no more."""
    program, rules = context.ruled.program, context.ruled.rules
    found: dict[int, str] = {}

    def keeps(value: int, d: int) -> dict[int, str] | None:
        kept: dict[int, str] = {}
        for consumer, place in program.consumers[value]:
            rule = rules[consumer]
            if consumer in context.gradient_ops or consumer in experts:
                continue
            if rule is None or program.ops[consumer].primitive != TIE:
                return None
            dim = rule.operands[place][d]
            if len(dim) != 1 or rule.factors[dim[0]].kind is not FactorKind.PARALLEL:
                return None
            kept[consumer] = dim[0]
            for result, e in _places(program.ops[consumer], rule, dim[0], results=True):
                further = keeps(result, e)
                if further is None:
                    return None
                kept |= further
        return kept

    for op_id, name in experts.items():
        rule = rules[op_id]
        assert rule is not None
        for value, d in _places(program.ops[op_id], rule, name, results=False):
            for consumer, place in program.consumers[value]:
                theirs = rules[consumer]
                if theirs is None or program.ops[consumer].primitive != TIE:
                    continue
                dim = theirs.operands[place][d]
                if len(dim) != 1 or value in context.parameter_values:
                    continue
                places = _places(program.ops[consumer], theirs, dim[0], results=True)
                kept = [keeps(*place) for place in places]
                if all(k is not None for k in kept):
                    found[consumer] = dim[0]
                    for k in kept:
                        found |= k or {}
    return found


def _reach(ruled: RuledProgram, experts: dict[int, str], *, forward: bool) -> dict[int, str]:
    """Ops that carry the dimension of the experts, behind or before the experts' ops."""
    program = ruled.program
    found: dict[int, str] = {}
    seen: set[tuple[int, str]] = set()
    stack = list(experts.items())
    while stack:
        op_id, name = stack.pop()
        op, rule = program.ops[op_id], ruled.rules[op_id]
        assert rule is not None
        for value, d in _places(op, rule, name, results=forward):
            if forward:
                neighbours: Iterable[tuple[int, int]] = program.consumers[value]
            else:
                made = program.values[value]
                neighbours = ((made.producer, made.index),)
            for other, place in neighbours:
                theirs = ruled.rules[other]
                if theirs is None:
                    continue
                dim = (theirs.operands if forward else theirs.results)[place][d]
                if not dim or (other, dim[0]) in seen:
                    continue
                if theirs.factors[dim[0]].kind is FactorKind.PARALLEL:
                    seen.add((other, dim[0]))
                    found.setdefault(other, dim[0])
                    stack.append((other, dim[0]))
    return found


def _places(op: Op, rule: OpRule, name: str, *, results: bool) -> list[tuple[int, int]]:
    """Values and dimensions of which a factor is the major one."""
    values = op.results if results else op.operands
    dims = rule.results if results else rule.operands
    return [
        (value, d)
        for value, dims_of_value in zip(values, dims, strict=True)
        if isinstance(value, int)
        for d, dim in enumerate(dims_of_value)
        if dim and dim[0] == name
    ]
