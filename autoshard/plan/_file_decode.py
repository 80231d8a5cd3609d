"""From the JSON of a plan file back to a `Plan`, believing nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from autoshard.errors import AutoshardError, PlanFileError, PlanSchemaError
from autoshard.plan._file_encode import KIND, SCHEMA_VERSION
from autoshard.plan._file_read import Node
from autoshard.plan._mesh import MeshShape
from autoshard.plan._plan import ConstraintKey, LeafPlan, Plan, Reduction
from autoshard.plan._spec import Spec
from autoshard.tracing import Signature, Structure

_FIELDS = (
    "kind schema_version versions function strategy mesh notes arguments results constraints "
    "reductions program"
)


def decode_plan(text: str, file: str) -> Plan:
    """Read the text of a plan file.

    Args:
        text: The text.
        file: Where it stands, for errors.

    Returns:
        The plan. Its ops are numbered in the order in which the file names them; `replay` finds
        them in a program.

    Raises:
        PlanFileError: It is no plan, or one that is damaged or contradicts itself.
        PlanSchemaError: A newer autoshard wrote it.
    """
    root = Node(file, "", _parse(text, file))
    _check_kind(root)
    try:
        return _plan(root.fields(_FIELDS))
    except PlanFileError:
        raise
    except AutoshardError as error:  # a mesh or spec that is none
        raise PlanFileError(file, str(error).split("\nMend it")[0].rstrip(".")) from error


def _parse(text: str, file: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise PlanFileError(file, f"an object has the field {name!r} twice")
        return dict(pairs)

    if not text.strip():
        raise PlanFileError(file, "it is empty")
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        lines = text.count("\n") + 1
        cut = error.lineno >= lines - 1 and not text.rstrip().endswith("}")
        problem = "it ends in the middle" if cut else f"it is no JSON: {error.msg}"
        raise PlanFileError(file, f"{problem} (line {error.lineno} of {lines})") from error
    except RecursionError as error:
        raise PlanFileError(file, "it is nested too deeply") from error


def _check_kind(root: Node) -> None:
    """Tell files of others and of later versions before looking at the rest."""
    value = root.value
    if not isinstance(value, dict) or value.get("kind") != KIND:
        root.fail(f'is JSON, but no plan: it does not say "kind": "{KIND}"')
    version = Node(root.file, "schema_version", value.get("schema_version")).of(int)
    if version > SCHEMA_VERSION:
        writer = value.get("versions")
        writer = writer.get("autoshard", "?") if isinstance(writer, dict) else "?"
        raise PlanSchemaError(root.file, version, SCHEMA_VERSION, str(writer))
    if version < 1:
        root.fail(f"has the schema version {version}; the first was 1")


def _plan(root: Mapping[str, Node]) -> Plan:
    mesh = _mesh(root["mesh"])
    ops = _Ops()
    arguments, argument_names = _leaves(root["arguments"], mesh)
    results, result_names = _leaves(root["results"], mesh)
    constraints, regathers = _constraints(root["constraints"], mesh, ops)
    scatters = _scatters(root["reductions"], mesh, ops)
    _check_state(root["results"], arguments, results)
    program = root["program"].fields("digest signatures")
    return Plan(
        name=root["function"].of(str),
        mesh=mesh,
        strategy=root["strategy"].of(str),
        arguments=arguments,
        results=results,
        constraints=constraints,
        regathers=regathers,
        reductions=scatters,
        notes=root["notes"].texts(),
        origin=Structure(
            digest=program["digest"].of(str),
            ops=ops.names(),
            arguments=argument_names,
            results=result_names,
            signatures=_signatures(program["signatures"]),
        ),
        versions=_versions(root["versions"]),
    )


class _Ops:
    """Numbers for the ops that a file names."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def read(self, node: Node) -> int:
        """The number of the op that a node names."""
        return self._ids.setdefault(node.of(str), len(self._ids))

    def names(self) -> dict[int, str]:
        """Number → name."""
        return {op_id: name for name, op_id in self._ids.items()}


def _versions(node: Node) -> dict[str, str]:
    record = node.of(dict)
    return {name: Node(node.file, f"versions.{name}", v).of(str) for name, v in record.items()}


def _mesh(node: Node) -> MeshShape:
    names: list[str] = []
    sizes: list[int] = []
    for entry in node.items():
        parts = entry.items()
        if len(parts) != 2:
            entry.fail("is no pair of an axis and its size")
        names.append(parts[0].of(str))
        sizes.append(parts[1].of(int))
    return MeshShape(tuple(names), tuple(sizes))


def _spec(node: Node, mesh: MeshShape) -> Spec:
    dims: list[tuple[str, ...]] = []
    for entry in node.items():
        if entry.value is None:
            dims.append(())
        else:
            dims.append((entry.value,) if isinstance(entry.value, str) else entry.texts())
    spec = Spec(tuple(dims))
    for axis in spec.axes:
        if axis not in mesh.axes:
            node.fail(f"names the axis {axis!r}; the mesh has {', '.join(mesh.names)}")
    return spec


def _leaves(node: Node, mesh: MeshShape) -> tuple[tuple[LeafPlan, ...], tuple[str, ...]]:
    leaves: list[LeafPlan] = []
    names: list[str] = []
    for entry in node.items():
        leaf = entry.fields("path array spec reason bytes id", "follows carried captured")
        array = leaf["array"].items()
        if not array:
            leaf["array"].fail("is empty: it begins with the element type")
        leaves.append(
            LeafPlan(
                path=leaf["path"].of(str),
                shape=tuple(size.size() for size in array[1:]),
                dtype=array[0].of(str),
                nbytes=leaf["bytes"].size(),
                spec=_spec(leaf["spec"], mesh),
                reason=leaf["reason"].of(str),
                carried="carried" in leaf and leaf["carried"].of(bool),
                captured="captured" in leaf and leaf["captured"].of(bool),
                follows=leaf["follows"].texts() if "follows" in leaf else (),
                mesh=mesh,
            )
        )
        names.append(leaf["id"].of(str))
    for name, count in Counter(names).items():
        if count > 1:
            node.fail(f"has {count} arrays with the id {name!r}")
    return tuple(leaves), tuple(names)


def _constraints(
    node: Node, mesh: MeshShape, ops: _Ops
) -> tuple[dict[ConstraintKey, tuple[Spec, ...]], frozenset[ConstraintKey]]:
    found: dict[ConstraintKey, tuple[Spec, ...]] = {}
    regathers: set[ConstraintKey] = set()
    for entry in node.items():
        record = entry.fields("op chain", "operand result regather")
        if ("operand" in record) == ("result" in record):
            entry.fail("has to name one operand or one result")
        side = "operand" if "operand" in record else "result"
        key: ConstraintKey = (ops.read(record["op"]), side, record[side].size())
        chain = tuple(_spec(spec, mesh) for spec in record["chain"].items())
        if not chain:
            record["chain"].fail("is empty")
        if key in found:
            entry.fail("constrains what an earlier line constrains")
        found[key] = chain
        if "regather" in record and record["regather"].of(bool):
            regathers.add(key)
    return found, frozenset(regathers)


def _scatters(node: Node, mesh: MeshShape, ops: _Ops) -> dict[int, Reduction]:
    found: dict[int, Reduction] = {}
    for entry in node.items():
        record = entry.fields("op axes reduced dim operands result", "into dtype")
        op_id = ops.read(record["op"])
        if op_id in found:
            entry.fail("speaks of the op of an earlier line")
        found[op_id] = Reduction(
            axes=record["axes"].texts(),
            reduced=record["reduced"].texts(),
            dim=record["dim"].size(),
            operands=tuple(_spec(spec, mesh) for spec in record["operands"].items()),
            result=_spec(record["result"], mesh),
            into=ops.read(record["into"]) if "into" in record else None,
            dtype=record["dtype"].of(str) if "dtype" in record else None,
        )
    return found


def _signatures(node: Node) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    for entry in node.items():
        parts = entry.items()
        if len(parts) != 3:
            entry.fail("is no signature with its count and digest")
        found[parts[0].of(str)] = Signature(parts[1].size(), parts[2].of(str))
    return found


def _check_state(
    node: Node, arguments: tuple[LeafPlan, ...], results: tuple[LeafPlan, ...]
) -> None:
    """State has to come back as it went in, or every step would begin by moving it."""
    there = Counter((x.dtype, x.shape, x.spec) for x in arguments if x.carried)
    back = Counter((x.dtype, x.shape, x.spec) for x in results if x.carried)
    for dtype, shape, spec in (there - back) + (back - there):
        node.fail(
            f"and arguments disagree on state: a {dtype}{list(shape)} in {spec} is not both "
            "taken and returned; change both lines"
        )
