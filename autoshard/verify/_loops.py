"""How often each computation runs: loops multiply, branches may run, unknown stays unknown.

XLA's CPU and GPU backends print a loop's ``known_trip_count``. Its TPU backend does not; there the
count is worked out from the loop: its condition compares a counter, which starts at a constant and
grows by a constant, with a limit that the loop does not change.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from autoshard.errors import HloFormatError
from autoshard.verify._module import Call, Computation, Instruction, Module

_KNOWN = re.compile(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)')
_INTEGER = re.compile(r"-?\d+$")
_MIRROR = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}
#: They hand on their first operand, as far as a loop counter can tell.
_PASS = frozenset(
    {"bitcast", "convert", "copy", "copy-done", "copy-start", "opt-barrier", "reshape"}
)
_WHOLE = -1  # in place of an element's index, for a loop whose state is no tuple


@dataclass(frozen=True, slots=True)
class Executions:
    """Executions of one computation in one run of the program.

    Attributes:
        count: None where a loop around it has an unknown trip count. A branch of a conditional
            counts as if it were taken each time.
        conditional: Whether a conditional decides over it.
    """

    count: int | None
    conditional: bool = False


def executions(module: Module) -> Mapping[str, Executions]:
    """Executions of each computation that the entry reaches, by name."""
    graph = {
        name: {call.caller.name for call in module.calls.get(name, ())}
        for name in module.computations
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise HloFormatError(f"computations call each other in a circle: {error.args[1]}") from None
    found = {module.entry: Executions(1)}
    for name in order:
        calls = [call for call in module.calls.get(name, ()) if call.caller.name in found]
        if not calls:
            continue
        terms = [(found[call.caller.name].count, _times(module, call)) for call in calls]
        known = [outer * each for outer, each in terms if outer is not None and each is not None]
        total = sum(known) if len(known) == len(terms) else None
        conditional = any(
            call.role == "branch" or found[call.caller.name].conditional for call in calls
        )
        found[name] = Executions(total, conditional)
    return found


def _times(module: Module, call: Call) -> int | None:
    """Executions of the callee for each execution of the calling instruction."""
    match call.role:
        case "body":
            return trip_count(module, call.caller, call.instruction)
        case "condition":
            trips = trip_count(module, call.caller, call.instruction)
            return None if trips is None else trips + 1
        case "branch" | "call":
            return 1
        case "opaque":
            return None


@dataclass(frozen=True, slots=True)
class _Linear:
    """A scalar as ``state[index] + offset``, or the constant `offset` where index is None."""

    index: int | None
    offset: int


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often the body of a while loop runs, None where the text does not determine it.

    Args:
        module: The module.
        computation: The computation with the loop in it.
        loop: The ``while`` instruction.
    """
    known = _KNOWN.search(loop.attribute_text)
    if known:
        return int(known[1])
    (body,), (condition,) = module.callees(loop, "body"), module.callees(loop, "condition")
    place, compare = _resolve(module, condition, condition.root)
    direction = compare.attribute("direction") or ""
    if compare.opcode != "compare" or direction not in _MIRROR:
        return None
    sides = [_linear(module, place, operand) for operand in place.operands(compare)]
    steps = [_step(module, body, side) for side in sides]
    values = [_initial(module, computation, loop, side) for side in sides]
    if steps[0] == 0:
        direction = _MIRROR[direction]
        steps.reverse()
        values.reverse()
    (step, limit_step), (start, limit) = steps, values
    if step is None or limit_step != 0 or start is None or limit is None:
        return None
    return _trips(start, limit, step, direction)


def _trips(start: int, limit: int, step: int, direction: str) -> int | None:
    """Steps until ``counter <direction> limit`` first fails; None if it never does."""
    if direction == "NE":
        direction = "LT" if step > 0 else "GT"
        if step == 0 or (limit - start) % step or (limit - start) // step < 0:
            return None
    if direction in ("GT", "GE"):
        start, limit, step = -start, -limit, -step
    if direction in ("LE", "GE"):
        limit += 1
    if start >= limit:
        return 0
    return -(-(limit - start) // step) if step > 0 else None


def _step(module: Module, body: Computation, value: _Linear | None) -> int | None:
    """What one execution of the body adds to a value of the loop's state; 0 for a constant."""
    if value is None or value.index is None:
        return None if value is None else 0
    after = _element(module, body, body.root, value.index)
    return after.offset if after is not None and after.index == value.index else None


def _initial(
    module: Module, computation: Computation, loop: Instruction, value: _Linear | None
) -> int | None:
    """The value before the loop begins."""
    if value is None or value.index is None:
        return None if value is None else value.offset
    (state,) = computation.operands(loop)
    first = _element(module, computation, state, value.index)
    if first is None or first.index is None:
        return None if first is None else first.offset + value.offset
    # It comes from the state of a loop around this one: good if that loop hands it on unchanged.
    calls = module.calls.get(computation.name, ())
    if len(calls) != 1 or calls[0].role != "body" or _step(module, computation, first) != 0:
        return None
    outer = _initial(module, calls[0].caller, calls[0].instruction, first)
    return None if outer is None else outer + value.offset


def _linear(module: Module, computation: Computation, value: Instruction) -> _Linear | None:
    """A scalar in terms of the state of the loop whose body or condition it stands in."""
    computation, value = _resolve(module, computation, value)
    operands = computation.operands(value)
    match value.opcode:
        case "constant":
            number = _INTEGER.match(value.arguments)
            return _Linear(None, int(number[0])) if number else None
        case "parameter":
            return _element(module, computation, value, _WHOLE)
        case "get-tuple-element":
            return _element(module, computation, operands[0], value.index)
        case "add" | "subtract":
            sign = 1 if value.opcode == "add" else -1
            left, right = (_linear(module, computation, operand) for operand in operands)
            if left is None or right is None:
                return None
            if right.index is not None and (left.index is not None or sign < 0):
                return None
            index = left.index if right.index is None else right.index
            return _Linear(index, left.offset + sign * right.offset)
        case _:
            return None


def _element(
    module: Module, computation: Computation, state: Instruction, index: int
) -> _Linear | None:
    """The scalar at `index` of a tuple, if it is a constant or the state of the loop around it."""
    computation, state = _resolve(module, computation, state)
    if state.opcode == "parameter":
        roles = {call.role for call in module.calls.get(computation.name, ())}
        return _Linear(index, 0) if roles and roles <= {"body", "condition"} else None
    if index == _WHOLE:
        return _linear(module, computation, state)
    if state.opcode == "tuple":
        return _linear(module, computation, computation.operands(state)[index])
    return None


def _resolve(
    module: Module, computation: Computation, value: Instruction
) -> tuple[Computation, Instruction]:
    """Follow a value to what computes it: through copies, into fusions and calls, and back out."""
    while True:
        if value.opcode in _PASS:
            value = computation.operands(value)[0]
        elif value.opcode in ("fusion", "call"):
            (computation,) = module.callees(value, "call")
            value = computation.root
        elif value.opcode == "parameter":
            calls = module.calls.get(computation.name, ())
            if len(calls) != 1 or calls[0].role != "call":
                return computation, value
            computation = calls[0].caller
            value = computation.operands(calls[0].instruction)[int(value.arguments)]
        else:
            return computation, value
