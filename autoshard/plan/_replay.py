"""Putting a plan onto a program: ops and arrays are found by structure, not by name or order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from autoshard.errors import PlanFileError, PlanMismatchError, SpecError
from autoshard.plan._differences import differences
from autoshard.plan._labelling import inferred_label, project
from autoshard.plan._mesh import MeshShape
from autoshard.plan._plan import ConstraintKey, LeafPlan, Plan, Reduction
from autoshard.plan._reductions import WRITTEN_OUT
from autoshard.plan._spec import Spec
from autoshard.rules import FactorKind, rule_for
from autoshard.tracing import Leaf, Op, Program, Structure


def replay(plan: Plan, program: Program, mesh: MeshShape) -> Plan:
    """The plan for a program, without planning.

    Args:
        plan: A plan of a program of the same structure, in this process or from a file.
        program: The program. Its arrays may have other names and stand in another order.
        mesh: The mesh that it will run on.

    Returns:
        The plan, with the ops and the paths of this program.

    Raises:
        PlanMismatchError: The program or the mesh is another.
        PlanFileError: A line of the plan does not fit the op that it names.
    """
    if plan.mesh != mesh:
        raise PlanMismatchError(
            plan.name,
            [f"mesh: {plan.mesh} in the plan, {mesh} here"],
            f'mesh="{plan.mesh}", or plan anew for {mesh}: leave plan= out',
        )
    if plan.origin is program:
        return plan
    planned, here = plan.structure, program.structure
    if planned.digest != here.digest:
        raise PlanMismatchError(plan.name, differences(plan, program))
    ops = _match_ops(planned, here, plan.name)
    constraints: dict[ConstraintKey, tuple[Spec, ...]] = {
        (ops[op], side, i): c for (op, side, i), c in plan.constraints.items()
    }
    scatters = {
        ops[op]: scatter if scatter.into is None else replace(scatter, into=ops[scatter.into])
        for op, scatter in plan.reductions.items()
    }
    for key, chain in constraints.items():
        _check_constraint(plan.name, program, key, chain, mesh)
    for op_id, scatter in scatters.items():
        _check_scatter(plan.name, program, program.ops[op_id], scatter, mesh)
    arguments = _leaves(plan.arguments, planned.arguments, program.arguments, here.arguments)
    results = _leaves(plan.results, planned.results, program.results, here.results)
    _check_arrays(plan.name, arguments, [program.argument_value(x).aval for x in program.arguments])
    ends = [program.aval(program.result_operand(leaf)) for leaf in program.results]
    _check_arrays(plan.name, results, ends)
    renamed = {old.path: new.path for old, new in (*arguments, *results)}
    return replace(
        plan,
        name=program.name,
        arguments=tuple(_rename(new, renamed) for _, new in arguments),
        results=tuple(_rename(new, renamed) for _, new in results),
        constraints=constraints,
        regathers=frozenset((ops[op], side, i) for op, side, i in plan.regathers),
        reductions=scatters,
        origin=program,
    )


def _match_ops(planned: Structure, here: Structure, name: str) -> dict[int, int]:
    """Op id of the plan → op id of the program."""
    ids = {op_name: op_id for op_id, op_name in here.ops.items()}
    for op_name in planned.ops.values():
        if op_name not in ids:
            raise PlanMismatchError(
                name,
                [f"op {op_name}: the plan constrains it, and no op here has that id"],
                "undo the change of this id in the plan file, or remove its line",
            )
    return {op_id: ids[op_name] for op_id, op_name in planned.ops.items()}


def _check_constraint(
    name: str, program: Program, key: ConstraintKey, chain: Sequence[Spec], mesh: MeshShape
) -> None:
    op, (_, side, index) = program.ops[key[0]], key
    values = op.operands if side == "operand" else op.results
    if index >= len(values):
        _refuse(name, f"{op} has no {side} {index}")
    for spec in chain:
        _check_spec(name, spec, program.aval(values[index]), mesh, f"{op}, {side} {index}")


def _check_spec(name: str, spec: Spec, aval: Any, mesh: MeshShape, what: str) -> None:
    try:
        spec.check(aval.shape, mesh, what)
    except SpecError as error:
        _refuse(name, str(error))


def _refuse(name: str, problem: str) -> NoReturn:
    hint = "mend or remove this line of the plan file, or write it anew"
    raise PlanFileError(f"of {name!r}", problem, hint)


def _check_scatter(
    name: str, program: Program, op: Op, scatter: Reduction, mesh: MeshShape
) -> None:
    """Whether the op is partial over the axes that the plan sums over.

    Everything else in a plan moves arrays. This runs an op on shards: a wrong line would give
    wrong numbers.
    """
    operands = [program.aval(o) for o in op.operands]
    results = [program.values[r].aval for r in op.results]
    if op.primitive not in WRITTEN_OUT or len(results) != 1:
        _refuse(name, f"{op} is no sum that can be written out")
    if len(scatter.operands) != len(operands):
        _refuse(name, f"{op} has {len(operands)} operands, not {len(scatter.operands)}")
    for index, (spec, aval) in enumerate(zip(scatter.operands, operands, strict=True)):
        _check_spec(name, spec, aval, mesh, f"{op}, operand {index}")
    _check_spec(name, scatter.result, results[0], mesh, f"{op}, its result")
    rule = rule_for(op.primitive, operands, results, op.params)
    label = inferred_label(rule, scatter.operands, mesh)
    if label is None:
        _refuse(name, f"{op} cannot run on shards: its operands are cut in ways that disagree")
    if any(label.get(factor) for factor in rule.of_kind(FactorKind.HALO)):
        _refuse(name, f"{op} reads beyond the edges of its shards")
    sums = rule.of_kind(FactorKind.REDUCTION)
    partial = sorted(axis for factor in sums for axis in label.get(factor, ()))
    if partial != sorted((*scatter.axes, *scatter.reduced)):
        told = sorted((*scatter.axes, *scatter.reduced))
        _refuse(name, f"{op} is partial over {partial}, but is to be summed over {told}")
    made = project(rule.results[0], rule, label, results[0].shape, mesh)
    dims = list(made.dims)
    if scatter.axes and scatter.dim >= len(dims):
        _refuse(name, f"{op} has no dimension {scatter.dim}")
    if scatter.axes:
        dims[scatter.dim] += scatter.axes
    if tuple(dims) != scatter.result.dims:
        _refuse(name, f"{op} leaves its result as {Spec(tuple(dims))}, not as {scatter.result}")


def _leaves(
    planned: Sequence[LeafPlan],
    planned_names: Sequence[str],
    leaves: Sequence[Leaf],
    names: Sequence[str],
) -> list[tuple[LeafPlan, LeafPlan]]:
    """Pairs of a planned leaf and what becomes of it, in the order of the program.

    Among leaves that nothing but their name tells apart, equal names go together.
    """
    classes: defaultdict[str, list[LeafPlan]] = defaultdict(list)
    for leaf, name in zip(planned, planned_names, strict=True):
        classes[_class(name)].append(leaf)
    pairs: dict[int, LeafPlan] = {}
    for same_path in (True, False):
        for index, (leaf, name) in enumerate(zip(leaves, names, strict=True)):
            free = classes[_class(name)]
            fitting = [x for x in free if not same_path or x.path == leaf.path]
            if index not in pairs and fitting:
                free.remove(fitting[0])
                pairs[index] = fitting[0]
    return [(pairs[i], replace(pairs[i], path=leaf.path)) for i, leaf in enumerate(leaves)]


def _check_arrays(
    name: str, pairs: Sequence[tuple[LeafPlan, LeafPlan]], avals: Sequence[Any]
) -> None:
    for (leaf, _), aval in zip(pairs, avals, strict=True):
        if (leaf.dtype, leaf.shape) != (str(aval.dtype), tuple(aval.shape)):
            here = f"{aval.dtype}{list(aval.shape)}"
            _refuse(name, f"{leaf.path} is {leaf.dtype}{list(leaf.shape)}, but its id is a {here}")


def _class(name: str) -> str:
    """The id of an op without its number among those that are interchangeable."""
    return name.rpartition("/")[0]


def _rename(leaf: LeafPlan, renamed: Mapping[str, str]) -> LeafPlan:
    """A leaf whose reason names the arrays as this program does."""
    if all(renamed.get(path, path) == path for path in leaf.follows):
        return leaf
    paths = sorted(leaf.follows, key=len, reverse=True)
    pattern = "|".join(rf"(?<=follows ){re.escape(path)}(?![^\s;])" for path in paths)
    return replace(
        leaf,
        reason=re.sub(pattern, lambda match: renamed.get(match[0], match[0]), leaf.reason),
        follows=tuple(renamed.get(path, path) for path in leaf.follows),
    )
