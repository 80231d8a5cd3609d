"""One function that turns any `Labelling` into a `Plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.plan._convolutions import pin_convolutions, written_convolutions
from autoshard.plan._gathers import find_regathers
from autoshard.plan._labelling import Label, Labelling, Reason, inferred_label, project
from autoshard.plan._plan import ConstraintKey, LeafPlan, Plan
from autoshard.plan._reductions import (
    find_reductions,
    merge_sums,
    retyped_sums,
    scattered_partials,
)
from autoshard.plan._reshard import reshard_chain
from autoshard.plan._roles import Roles
from autoshard.plan._spec import Spec
from autoshard.rules import FactorKind
from autoshard.tracing import ARGUMENT, RESULT, TIE, Leaf, Op, nbytes


def make_plan(
    labelling: Labelling,
    roles: Roles,
    *,
    strategy: str,
    notes: Sequence[str] = (),
    sum_dtypes: Mapping[int, str] | None = None,
) -> Plan:
    """Turn a labelling into specs and constraints.

    The edges on which a value is read in another spec than it was produced in become operand
    constraints. Results are constrained only where the partitioner, which sees the operands,
    would not come to the planned spec by itself.

    Args:
        labelling: Labels for the program's ops.
        roles: Which arguments are state.
        strategy: Name of what was asked for, kept in the plan.
        notes: What the recipe or search wants to tell the user.
        sum_dtypes: Op id → the type in which its partial result is combined, where it is not the
            op's own.

    Returns:
        The plan.
    """
    program = labelling.ruled.program
    produced = [labelling.value_spec(v.id) for v in program.values]
    constraints: dict[ConstraintKey, tuple[Spec, ...]] = {}
    settled = scattered_partials(labelling, produced)
    reductions = find_reductions(labelling, produced, settled)
    reductions |= written_convolutions(labelling, reductions)
    reductions |= retyped_sums(labelling, reductions, sum_dtypes or {})
    for value_id, spec in settled.items():
        value = program.values[value_id]
        # A partitioner asked for both at once permutes and exchanges whole arrays (seen with
        # scatter-add): where an op is not written out it is told to combine first.
        combined = () if value.producer in reductions else (produced[value_id],)
        produced[value_id] = spec
        constraints[(value.producer, "result", value.index)] = (*combined, spec)
    reductions, dropped = merge_sums(labelling, produced, reductions)
    _edges(labelling, produced, constraints)
    _results(labelling, produced, constraints, set(settled))
    _resharded(labelling, produced, constraints)
    pin_convolutions(labelling, produced, reductions, constraints)
    for key in dropped:
        constraints.pop(key, None)

    def leaf_plan(leaf: Leaf, spec: Spec, aval: Any, carried: bool) -> LeafPlan:
        reason = labelling.reasons.get(leaf.op, _NO_REASON)
        return LeafPlan(
            path=leaf.path,
            shape=tuple(aval.shape),
            dtype=str(aval.dtype),
            nbytes=nbytes(aval),
            spec=spec,
            reason=reason.text,
            follows=reason.follows,
            carried=carried,
            mesh=labelling.mesh,
            captured=leaf.captured,
        )

    arguments = []
    for leaf in program.arguments:
        value = program.argument_value(leaf)
        spec = produced[value.id]
        arguments.append(leaf_plan(leaf, spec, value.aval, leaf.op in roles.state_of_argument))
    results = []
    for leaf in program.results:
        spec = labelling.operand_spec(leaf.op, 0)
        aval = program.aval(program.result_operand(leaf))
        results.append(leaf_plan(leaf, spec, aval, leaf.op in roles.argument_of_result))
    regathers = find_regathers(labelling, constraints)
    for key in regathers:
        # A partitioner would give the copy's source the spec of its only reader, and gather first.
        operand = program.ops[key[0]].operands[key[2]]
        assert isinstance(operand, int)
        constraints[key] = (produced[operand], *constraints[key])
    return Plan(
        name=program.name,
        mesh=labelling.mesh,
        strategy=strategy,
        arguments=tuple(arguments),
        results=tuple(results),
        constraints=constraints,
        regathers=regathers,
        reductions=reductions,
        notes=tuple(notes),
        origin=program,
    )


_NO_REASON = Reason("replicated: nothing shards it")


def _edges(
    labelling: Labelling,
    produced: Sequence[Spec],
    constraints: dict[ConstraintKey, tuple[Spec, ...]],
) -> None:
    """Constrain operands that are read in another spec than they were produced in."""
    program = labelling.ruled.program
    for op in program.ops:
        if op.structured or op.primitive == RESULT:
            continue
        for index, operand in enumerate(op.operands):
            if not isinstance(operand, int):
                continue
            want, have = labelling.operand_spec(op.id, index), produced[operand]
            if want != have:
                shape = program.values[operand].shape
                constraints[(op.id, "operand", index)] = reshard_chain(
                    have, want, shape, labelling.mesh
                )


def _resharded(
    labelling: Labelling,
    produced: Sequence[Spec],
    constraints: dict[ConstraintKey, tuple[Spec, ...]],
) -> None:
    """Pin values that are cut one way and read in another.

    The partitioner carries a constraint backward as well: it would move the exchange to before
    the ops that made the value, where it may cost more.
    """
    program = labelling.ruled.program
    for op_id, side, index in list(constraints):
        operand = program.ops[op_id].operands[index] if side == "operand" else None
        if not isinstance(operand, int) or produced[operand].is_replicated:
            continue
        made = program.values[operand]
        if program.ops[made.producer].primitive != ARGUMENT:
            constraints.setdefault((made.producer, "result", made.index), (produced[operand],))


def _results(
    labelling: Labelling,
    produced: Sequence[Spec],
    constraints: dict[ConstraintKey, tuple[Spec, ...]],
    settled: set[int],
) -> None:
    """Constrain results to which the operands alone would not lead."""
    ruled, mesh = labelling.ruled, labelling.mesh
    program = ruled.program
    for op in program.ops:
        rule = ruled.rules[op.id]
        if rule is None or op.primitive in (ARGUMENT, RESULT):
            continue
        if op.primitive == TIE:
            _carry(labelling, op, produced, constraints)
            continue
        reads: list[Spec | None] = [
            labelling.operand_spec(op.id, i) if isinstance(o, int) else None
            for i, o in enumerate(op.operands)
        ]
        inferred = inferred_label(rule, reads, mesh)
        heavy = bool(rule.of_kind(FactorKind.REDUCTION)) and len(op.operands) > 1
        for index, result in enumerate(op.results):
            if result in settled or not program.values[result].shape:
                continue
            spec = produced[result]
            if inferred is None:
                wanted = True
            else:
                guess = project(
                    rule.results[index], rule, inferred, program.values[result].shape, mesh
                )
                wanted = guess != spec and not _readers_tell(labelling, result, spec, inferred)
                wanted = wanted or (heavy and bool(labelling.partial_axes(op.id)))
            if wanted or op.primitive == "sharding_constraint":
                constraints[(op.id, "result", index)] = (spec,)


def _carry(
    labelling: Labelling,
    op: Op,
    produced: Sequence[Spec],
    constraints: dict[ConstraintKey, tuple[Spec, ...]],
) -> None:
    """Pin a loop's carry: the partitioner would otherwise choose one spec for all iterations."""
    if op.params["kind"] != "carry":
        return
    program = labelling.ruled.program
    for index, result in enumerate(op.results[:-1]):
        if program.values[result].shape:
            constraints[(op.id, "result", index)] = (produced[result],)


def _readers_tell(labelling: Labelling, value: int, spec: Spec, inferred: Label) -> bool:
    """Whether a value made from nothing sharded gets its spec from its readers."""
    if any(inferred.values()):
        return False
    return all(
        labelling.operand_spec(c, i) == spec for c, i in labelling.ruled.program.consumers[value]
    )
