"""Partial results: where they are combined, and which are added before that.

An op that sums over a cut dimension leaves a partial result on each device. A partitioner combines
it where it is made, by an all-reduce. Two cases are better written out: a partial that all readers
want in shards is reduce-scattered, and partials that are only added to each other (the gradients
that query, key and value projections send back to their input) are added first, and combined once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoshard.plan._labelling import Labelling
from autoshard.plan._plan import ConstraintKey, Reduction
from autoshard.plan._spec import Spec
from autoshard.rules import FactorKind
from autoshard.tracing import TIE, Op


def scattered_partials(labelling: Labelling, produced: Sequence[Spec]) -> Mapping[int, Spec]:
    """Values that are combined straight into the spec of their readers: a reduce-scatter.

    A partial result is combined where it is made. When every reader wants the axes of the partial
    on a dimension, combining to the whole array first would move twice the bytes.

    Args:
        labelling: Labels of the program.
        produced: Spec of each value, its partials combined to the whole.

    Returns:
        Value → the spec that its readers want.
    """
    program = labelling.ruled.program
    found: dict[int, Spec] = {}
    for op in program.ops:
        if op.structured or op.primitive == TIE:
            continue
        partial = set(labelling.partial_axes(op.id))
        if not partial:
            continue
        for result in op.results:
            wants = {labelling.operand_spec(c, i) for c, i in program.consumers[result]}
            if len(wants) != 1:
                continue
            (want,) = wants
            gained = set(want.axes) - set(produced[result].axes)
            if gained and gained <= partial:
                found[result] = want
    return found


WRITTEN_OUT = frozenset({"conv_general_dilated", "dot_general", "reduce_sum", "scatter-add"})
"""Sums that run on shards as they are: none of their params speaks of a sharded size."""


def find_reductions(
    labelling: Labelling, produced: Sequence[Spec], settled: Mapping[int, Spec]
) -> dict[int, Reduction]:
    """Reductions that can be written out as one reduce-scatter on one dimension.

    Args:
        labelling: Labels of the program.
        produced: Spec of each value, its partials combined to the whole.
        settled: What `scattered_partials` found.

    Returns:
        Op id → its reduction.
    """
    program = labelling.ruled.program
    found: dict[int, Reduction] = {}
    for value_id, want in settled.items():
        op = program.ops[program.values[value_id].producer]
        partial = labelling.partial_axes(op.id)
        gained = [(d, dim) for d, dim in enumerate(want.dims) if dim != produced[value_id].dims[d]]
        if not runs_on_shards(labelling, op) or len(gained) != 1:
            continue
        dim, axes = gained[0]
        before = produced[value_id].dims[dim]
        # A shard of the partial result is scattered: what cuts it already stays major.
        if axes[: len(before)] != before or not set(axes[len(before) :]) <= set(partial):
            continue
        axes = axes[len(before) :]
        if op.primitive == "scatter-add" and set(want.axes) != set(axes):
            continue  # its indices speak of rows of the whole array
        found[op.id] = Reduction(
            axes=axes,
            reduced=tuple(a for a in partial if a not in axes),
            dim=dim,
            operands=tuple(labelling.operand_spec(op.id, i) for i in range(len(op.operands))),
            result=want,
        )
    return found


def runs_on_shards(labelling: Labelling, op: Op) -> bool:
    """Whether an op computes its part of the result when it is given its part of the operands."""
    if op.primitive not in WRITTEN_OUT or len(op.results) != 1:
        return False
    if any(not isinstance(o, int) for o in op.operands):
        return False
    rule, label = labelling.ruled.rules[op.id], labelling.labels.get(op.id, {})
    assert rule is not None
    halo = rule.of_kind(FactorKind.HALO)  # a window looks beyond the edge of its shard
    return not any(label.get(name) for name in halo) and _is_said(labelling, op)


def _is_said(labelling: Labelling, op: Op) -> bool:
    """Whether specs say the whole label of an op: not so of some factors inside a dimension."""
    rule, label = labelling.ruled.rules[op.id], labelling.labels.get(op.id, {})
    assert rule is not None
    operands = [labelling.operand_spec(op.id, i) for i in range(len(op.operands))]
    results = [labelling.result_spec(op.id, i) for i in range(len(op.results))]
    sides = zip((*rule.operands, *rule.results), (*operands, *results), strict=True)
    return all(
        set(label.get(name, ())) <= set(axes)
        for dims, spec in sides
        for dim, axes in zip(dims, spec.dims, strict=True)
        for name in dim
    )


def retyped_sums(
    labelling: Labelling,
    reductions: Mapping[int, Reduction],
    dtypes: Mapping[int, str],
) -> dict[int, Reduction]:
    """Partial results that are combined in another type than the op's own.

    Args:
        labelling: Labels of the program.
        reductions: Those that are written out already.
        dtypes: Op id → the type.

    Returns:
        Op id → its reduction, for those of the ops that are partial and can be written out.
    """
    program = labelling.ruled.program
    found: dict[int, Reduction] = {}
    for op_id, dtype in dtypes.items():
        op = program.ops[op_id]
        written = reductions.get(op_id)
        if written is None and labelling.partial_axes(op_id) and runs_on_shards(labelling, op):
            if op.primitive == "scatter-add" and labelling.operand_spec(op_id, 0).axes:
                continue  # its indices speak of rows of the whole array
            written = all_reduce(labelling, op_id)
        if written is not None:
            found[op_id] = replace(written, dtype=dtype)
    return found


def merge_sums(
    labelling: Labelling, produced: Sequence[Spec], reductions: Mapping[int, Reduction]
) -> tuple[dict[int, Reduction], set[ConstraintKey]]:
    """Let partial results that are only added to each other be combined once, as their sum.

    They stay partial from the first of them to the last addition, so this is done only where no
    other reduction over the same axes lies in between: the gradient of a table that is used at both
    ends of a model would otherwise stay alive in full through its backward pass.

    Args:
        labelling: Labels of the program.
        produced: Spec of each value once it is combined.
        reductions: Those that are written out already.

    Returns:
        All reductions, those that are merged naming the addition that combines them; and the
        constraints that speak of values which are never combined by themselves.
    """
    program = labelling.ruled.program
    trees: dict[int, list[int]] = {}  # addition → ops whose partial results it adds
    within: dict[int, list[int]] = {}  # addition → it and the additions below it
    for op in program.ops:
        if op.primitive not in ("add", "add_any"):
            continue
        terms: list[int] = []
        additions = [op.id]
        for index, operand in enumerate(op.operands):
            below = _terms(labelling, produced, reductions, trees, op, index, operand)
            if below is None:
                break
            terms += below
            additions += within.get(program.values[_value(operand)].producer, [])
        else:
            if _combine_alike(labelling, produced, reductions, op, terms):
                trees[op.id], within[op.id] = terms, additions
    found = dict(reductions)
    dropped: set[ConstraintKey] = set()
    inner = {a for root, all_ in within.items() for a in all_ if a != root}
    for root in trees.keys() - inner:
        if not _adjacent(labelling, trees[root]):
            continue
        for op_id in trees[root]:
            written = reductions.get(op_id) or all_reduce(labelling, op_id)
            found[op_id] = replace(written, into=root)
            dropped.add((op_id, "result", 0))
        for op_id in within[root]:
            dropped.update({(op_id, "operand", 0), (op_id, "operand", 1)})
            if op_id != root:
                dropped.add((op_id, "result", 0))
    return found, dropped


def _value(operand: Any) -> int:
    assert isinstance(operand, int)
    return operand


def _terms(
    labelling: Labelling,
    produced: Sequence[Spec],
    reductions: Mapping[int, Reduction],
    trees: Mapping[int, list[int]],
    addition: Op,
    index: int,
    operand: Any,
) -> list[int] | None:
    """The ops whose partial results an operand of an addition consists of, or None."""
    program = labelling.ruled.program
    if not isinstance(operand, int) or len(program.consumers[operand]) != 1:
        return None
    made = program.ops[program.values[operand].producer]
    if made.parent != addition.parent:
        return None
    if labelling.operand_spec(addition.id, index) != produced[operand]:
        return None
    if made.id in trees:
        return trees[made.id]
    if not labelling.partial_axes(made.id):
        return None
    if made.id not in reductions:
        if made.primitive == "scatter-add" or made.structured:
            return None  # the indices of a scatter speak of rows of the whole array
        if not runs_on_shards(labelling, made):
            return None
    return [made.id]


def _combine_alike(
    labelling: Labelling,
    produced: Sequence[Spec],
    reductions: Mapping[int, Reduction],
    addition: Op,
    terms: Sequence[int],
) -> bool:
    """Whether partial results can be combined by one op, into what the addition leaves."""
    ways: set[tuple[Any, ...]] = set()
    for op_id in terms:
        written = reductions.get(op_id) or all_reduce(labelling, op_id)
        ways.add(
            (
                written.axes,
                frozenset(written.reduced),
                written.dim,
                written.dtype,
                written.result,
            )
        )
    (result,) = addition.results
    return len(ways) == 1 and next(iter(ways))[-1] == produced[result]


def all_reduce(labelling: Labelling, op_id: int) -> Reduction:
    """The reduction of an op that is combined to the whole where it is made.

    Args:
        labelling: Labels of the program.
        op_id: The op.
    """
    op = labelling.ruled.program.ops[op_id]
    return Reduction(
        axes=(),
        reduced=labelling.partial_axes(op_id),
        dim=0,
        operands=tuple(labelling.operand_spec(op_id, i) for i in range(len(op.operands))),
        result=labelling.result_spec(op_id, 0),
    )


def _adjacent(labelling: Labelling, terms: Sequence[int]) -> bool:
    """Whether no other reduction over the same axes lies between some ops."""
    axes = {axis for op_id in terms for axis in labelling.partial_axes(op_id)}
    between = range(min(terms), max(terms))
    ops, rules = labelling.ruled.program.ops, labelling.ruled.rules
    return not any(
        rules[ops[i].id] is not None
        and ops[i].id not in terms
        and axes.intersection(labelling.partial_axes(ops[i].id))
        for i in between
    )
