"""In which words two programs differ: the first array, else the first op, with both shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from autoshard.plan._plan import LeafPlan, Plan
from autoshard.tracing import Op, Program, Structure, op_signature

Array = tuple[str, str]
"""Path and what is there, as in ``float32[8,16]``."""


def differences(plan: Plan, program: Program) -> list[str]:
    """How a program differs from the one that a plan was made for.

    Args:
        plan: The plan.
        program: A program of another structure.

    Returns:
        A few lines; the first names the first difference.
    """
    lines = [
        *_arrays("argument", _planned(plan.arguments), _arguments(program)),
        *_arrays("result", _planned(plan.results), _results(program)),
    ]
    lines = lines or [_first_op(plan.structure, program)]
    here = _jax_version()
    if plan.versions.get("jax", here) != here:
        lines.append(
            f"the plan was made with jax {plan.versions['jax']}, this is {here}, which may trace "
            "the same code to other ops"
        )
    return lines[:4]


def _jax_version() -> str:
    import jax

    return jax.__version__


def _planned(leaves: Sequence[LeafPlan]) -> list[Array]:
    return [(x.path, f"{x.dtype}[{','.join(map(str, x.shape))}]") for x in leaves]


def _arguments(program: Program) -> list[Array]:
    return [(x.path, _text(program.argument_value(x).aval)) for x in program.arguments]


def _results(program: Program) -> list[Array]:
    return [(x.path, _text(program.aval(program.result_operand(x)))) for x in program.results]


def _text(aval: object) -> str:
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"  # type: ignore[attr-defined]


def _arrays(kind: str, planned: Sequence[Array], here: Sequence[Array]) -> Iterator[str]:
    """Arrays of another shape under the same path; then those without a counterpart."""
    paths = dict(planned)
    changed = [(p, paths[p], a) for p, a in here if p in paths and paths[p] != a]
    for path, before, now in changed[:1]:
        yield f"{kind} {path}: {before} in the plan, {now} here{_more(len(changed) - 1)}"
    if changed:
        return
    before, now = Counter(a for _, a in planned), Counter(a for _, a in here)
    for extra, arrays, where in ((now - before, here, "here"), (before - now, planned, "plan")):
        if extra:
            path, array = next((p, a) for p, a in arrays if a in extra)
            only = "here, not in the plan" if where == "here" else "in the plan, not here"
            yield f"{kind} {path} {array}: {only}{_more(extra.total() - 1)}"


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


def _first_op(planned: Structure, program: Program) -> str:
    """The first op that the plan's program does not have, or has elsewhere."""
    here = program.structure.signatures
    moved: Op | None = None
    for op in program.ops:
        look = op_signature(program, op)
        before = planned.signatures.get(look)
        count = before.count if before else 0
        if count < here[look].count:
            return f"op {look}: {count} in the plan, {here[look].count} here{_source(op)}"
        if moved is None and before is not None and before.inputs != here[look].inputs:
            moved = op
    for look, found in planned.signatures.items():
        count = here[look].count if look in here else 0
        if count < found.count:
            return f"op {look}: {found.count} in the plan, {count} here"
    if moved is not None:
        return f"op {op_signature(program, moved)}: other inputs than in the plan{_source(moved)}"
    return "the same ops, but their results go elsewhere"


def _source(op: Op) -> str:
    return f", first at {op.source}" if op.source else ""
