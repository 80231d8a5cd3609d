"""The strategy ``propagate``: everything follows from what the user pinned."""

from __future__ import annotations

from autoshard.plan import Reason, Spec
from autoshard.recipes._context import Context
from autoshard.recipes._flow import Flow, Unit
from autoshard.recipes.propagate._engine import propagate
from autoshard.recipes.propagate._hints import Hint, Hints
from autoshard.tracing import ARGUMENT, RESULT


def by_propagation(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Propagate pins and constraints; what they do not reach stays replicated.

    Args:
        flow: The labels so far, with the pins.
        context: The program.
        unit: The axes that may be used, each on its own.

    Returns:
        A note where there is nothing to propagate.
    """
    program = flow.program
    values: dict[int, Hint] = {}
    results: dict[int, Hint] = {}
    for op_id, (spec, open_dims, why) in flow.pins.items():
        hint = _hint(spec.keep(unit), open_dims, why)
        if program.ops[op_id].primitive == RESULT:
            results[op_id] = hint
        else:
            values[program.ops[op_id].results[0]] = hint
    state = context.roles.state_of_argument
    groups = [
        (program.ops[argument].results[0], (RESULT, result)) for argument, result in state.items()
    ]
    found = propagate(
        context.ruled, flow.mesh, Hints(values=values, results=results, groups=groups)
    )
    for op_id, label in found.labels.items():
        border = program.ops[op_id].primitive in (ARGUMENT, RESULT)
        reasons = found.reasons(op_id) if border else {}
        for name, axes in label.items():
            for axis in axes:
                flow.put(op_id, name, (axis,), reasons.get(axis, _INSIDE))
    if any(flow.labelled(op_id, unit) for op_id in flow.pins) or flow.mesh.size_of(unit) == 1:
        return []
    return [
        f"no pin and no constraint uses {' or '.join(unit)}, so there is nothing to propagate and "
        "everything stays replicated over it: pins={path: PartitionSpec(…)} gives the first"
    ]


_INSIDE = Reason("propagated")


def _hint(spec: Spec, open_dims: frozenset[int], why: str | int) -> Hint:
    return Hint.of(spec, open_dims, source="a mirrored parameter" if isinstance(why, int) else why)
