"""A plan as JSON that people can read and compare.

One record a line, keys in a fixed order: a spec that changes is a line that changes.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

from autoshard.plan._plan import LeafPlan, Plan, Reduction
from autoshard.plan._spec import Spec
from autoshard.tracing import Structure

KIND = "autoshard plan"
SCHEMA_VERSION = 1


def encode_plan(plan: Plan) -> str:
    """The text of a plan file.

    Args:
        plan: A plan that knows the structure of its program.

    Returns:
        JSON; the same text for the same plan.
    """
    structure = plan.structure
    sections: dict[str, Any] = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "versions": versions(),
        "function": plan.name,
        "strategy": plan.strategy,
        "mesh": [[name, size] for name, size in plan.mesh.axes.items()],
        "notes": list(plan.notes),
        "arguments": _leaves(plan.arguments, structure.arguments),
        "results": _leaves(plan.results, structure.results),
        "constraints": _constraints(plan, structure),
        "reductions": [
            _reduction(structure, op_id, reduction)
            for op_id, reduction in sorted(plan.reductions.items())
        ],
        "program": {
            "digest": structure.digest,
            "signatures": [
                [text, found.count, found.inputs]
                for text, found in sorted(structure.signatures.items())
            ],
        },
    }
    return _dump(sections)


def versions() -> dict[str, str]:
    """Versions of what decides how a program is traced and planned."""
    return {name: importlib.metadata.version(name) for name in ("autoshard", "jax")}


def spec_entries(spec: Spec) -> list[Any]:
    """A spec as JSON, like the arguments of `jax.sharding.PartitionSpec`: one entry a dimension."""
    return [None if not d else d[0] if len(d) == 1 else list(d) for d in spec.dims]


def _leaves(leaves: Sequence[LeafPlan], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "path": leaf.path,
            "array": [leaf.dtype, *leaf.shape],
            "spec": spec_entries(leaf.spec),
            "reason": leaf.reason,
            **({"follows": list(leaf.follows)} if leaf.follows else {}),
            **({"carried": True} if leaf.carried else {}),
            **({"captured": True} if leaf.captured else {}),
            "bytes": leaf.nbytes,
            "id": name,
        }
        for leaf, name in zip(leaves, names, strict=True)
    ]


def _constraints(plan: Plan, structure: Structure) -> list[dict[str, Any]]:
    return [
        {
            "op": structure.ops[key[0]],
            key[1]: key[2],
            "chain": [spec_entries(spec) for spec in plan.constraints[key]],
            **({"regather": True} if key in plan.regathers else {}),
        }
        for key in sorted(plan.constraints)
    ]


def _reduction(structure: Structure, op_id: int, reduction: Reduction) -> dict[str, Any]:
    return {
        "op": structure.ops[op_id],
        "axes": list(reduction.axes),
        "reduced": list(reduction.reduced),
        "dim": reduction.dim,
        "operands": [spec_entries(spec) for spec in reduction.operands],
        "result": spec_entries(reduction.result),
        **({} if reduction.into is None else {"into": structure.ops[reduction.into]}),
        **({} if reduction.dtype is None else {"dtype": reduction.dtype}),
    }


def _dump(sections: dict[str, Any]) -> str:
    lines = [f"{_json(name)}: {_section(value)}" for name, value in sections.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _section(value: Any, indent: str = "  ") -> str:
    """Lists of records one record a line, objects one entry a line, all else on one line."""
    if isinstance(value, list) and any(isinstance(v, list | dict | str) for v in value):
        rows = ",\n".join(indent + _json(v) for v in value)
        return f"[\n{rows}\n{indent[2:]}]"
    if isinstance(value, dict):
        rows = ",\n".join(
            f"{indent}{_json(k)}: {_section(v, indent + '  ')}" for k, v in value.items()
        )
        return f"{{\n{rows}\n{indent[2:]}}}"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
