"""`autoshard diff`: what differs between two plans."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from autoshard.errors import ExitCode

if TYPE_CHECKING:
    from autoshard.plan import LeafPlan, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Compare two plan files: mesh, strategy, the spec of every array, bytes per device.

    Arrays are matched by structure where both plans are of one program, whatever they are called,
    and by path otherwise. Exits with 1 if the plans differ.

    Example: autoshard diff zero3.json tensor.json

    Attributes:
        a: A plan file.
        b: Another one.
        json: Print one JSON object instead of a table.
    """

    a: Annotated[Positional[Path], arg(metavar="A")]
    b: Annotated[Positional[Path], arg(metavar="B")]
    json: bool = False

    def run(self) -> int:
        """Compares and prints."""
        from autoshard.plan import Plan

        one, other = Plan.load(self.a), Plan.load(self.b)
        found = compare(one, other)
        if self.json:
            from autoshard.cli._output import print_json

            print_json(found)
        else:
            _print(one, other, found)
        return ExitCode.CHECK_FAILED if found["differ"] else ExitCode.OK


def compare(one: "Plan", other: "Plan") -> dict[str, Any]:
    """Two plans as plain data on what differs.

    Args:
        one: A plan.
        other: Another one.

    Returns:
        `differ`, and for each side what it has.
    """
    same_program = one.structure.digest == other.structure.digest
    arrays: list[dict[str, Any]] = []
    for kind in ("arguments", "results"):
        arrays += _arrays(kind[:-1], one, other, kind, same_program)
    facts = {
        name: [value(one), value(other)]
        for name, value in {
            "function": lambda p: p.name,
            "strategy": lambda p: p.strategy,
            "mesh": lambda p: p.mesh.text,
            "bytes_per_device": lambda p: p.bytes_per_device,
            "constraints": lambda p: len(p.constraints),
            "notes": lambda p: list(p.notes),
        }.items()
    }
    inner = same_program and (_inner(one) != _inner(other))
    changed = {name: pair for name, pair in facts.items() if pair[0] != pair[1]}
    return {
        "differ": bool(changed or arrays or inner or not same_program),
        "same_program": same_program,
        "changed": changed,
        "arrays": arrays,
        "inner_constraints_differ": inner,
    }


def _inner(plan: "Plan") -> Any:
    """What a plan says of ops, by their names."""
    names = plan.structure.ops
    constraints = {(names[op], side, i): c for (op, side, i), c in plan.constraints.items()}
    gathers = {(names[op], side, i) for op, side, i in plan.regathers}
    return constraints, gathers


def _arrays(
    kind: str, one: "Plan", other: "Plan", field: str, same_program: bool
) -> list[dict[str, Any]]:
    def by_key(plan: "Plan") -> "dict[str, LeafPlan]":
        leaves = getattr(plan, field)
        keys = getattr(plan.structure, field) if same_program else [leaf.path for leaf in leaves]
        found = dict(zip(keys, leaves, strict=True))
        # State comes back as it went in: once is enough.
        return {k: v for k, v in found.items() if kind == "argument" or not v.carried}

    left, right = by_key(one), by_key(other)
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys([*left, *right]):
        a, b = left.get(key), right.get(key)
        sides = [_side(a), _side(b)]
        if sides[0] != sides[1]:
            leaf = a or b
            assert leaf is not None
            rows.append({"kind": kind, "path": leaf.path, "a": sides[0], "b": sides[1]})
    return rows


def _side(leaf: "LeafPlan | None") -> dict[str, Any] | None:
    if leaf is None:
        return None
    return {
        "array": f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]",
        "spec": str(leaf.spec),
        "bytes_per_device": leaf.bytes_per_device,
    }


def _print(one: "Plan", other: "Plan", found: dict[str, Any]) -> None:
    from rich.table import Table

    from autoshard.cli._output import print_line, print_table
    from autoshard.plan import human_bytes

    if not found["differ"]:
        print_line("the plans are equal")
        return
    if not found["same_program"]:
        print_line("the plans are of different programs; arrays are compared by path")
    for name, (a, b) in found["changed"].items():
        if name == "bytes_per_device":
            a, b = human_bytes(a), human_bytes(b)
        print_line(f"{name.replace('_', ' ')}: {a} -> {b}")
    if found["inner_constraints_differ"]:
        print_line("constraints inside the program differ")
    if not found["arrays"]:
        return
    table = Table("path", "array", "a", "b", "per device")
    for row in found["arrays"]:
        a, b = row["a"], row["b"]
        array = " -> ".join(dict.fromkeys(x["array"] for x in (a, b) if x))
        sizes = [human_bytes(x["bytes_per_device"]) if x else "-" for x in (a, b)]
        table.add_row(
            row["path"] if row["kind"] == "argument" else f"result {row['path']}",
            array,
            a["spec"] if a else "-",
            b["spec"] if b else "-",
            " -> ".join(dict.fromkeys(sizes)),
        )
    print_table(table)
