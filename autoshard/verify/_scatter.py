"""All-reduces of which each device keeps one slice: reduce-scatters in all but name.

XLA's partitioner asks for a reduce-scatter as an all-reduce followed by a dynamic-slice at the
device's own offset. The TPU and GPU backends merge the two, the CPU backend leaves them.
"""

from collections.abc import Iterator

from autoshard.verify._module import Computation, Instruction, Module

#: They change a value's layout or element type, not which elements are used.
_TRANSPARENT = frozenset(
    {"all-reduce-done", "bitcast", "convert", "copy", "copy-done", "copy-start"}
    | {"opt-barrier", "reshape", "transpose"}
)
_DEVICE = frozenset({"partition-id", "replica-id"})


def sliced_operands(
    module: Module, computation: Computation, all_reduce: Instruction
) -> tuple[bool, ...]:
    """For each operand: does each device use only a slice, at its own offset, of its sum?"""
    several = all_reduce.shape.dtype == "tuple"
    elements = range(len(all_reduce.operands)) if several else [None]
    return tuple(_only_sliced(module, computation, all_reduce, element) for element in elements)


def _only_sliced(
    module: Module, computation: Computation, value: Instruction, element: int | None
) -> bool:
    """Whether a value, or one element of it, is used in nothing but such slices."""
    if value is computation.root:
        return False
    uses = [
        (user, position)
        for user, position in computation.users[value.name]
        if user.opcode != "get-tuple-element" or element in (None, user.index)
    ]
    return bool(uses) and all(
        _is_slice(module, computation, user, position, element) for user, position in uses
    )


def _is_slice(
    module: Module, computation: Computation, user: Instruction, position: int, element: int | None
) -> bool:
    """Whether a user takes a slice, or hands the value on to users that do."""
    if user.opcode == "dynamic-slice":
        offsets = computation.operands(user)[1:]
        return _knows_device(module, computation, offsets, set())
    if user.opcode == "get-tuple-element":
        return _only_sliced(module, computation, user, None)
    if user.opcode in _TRANSPARENT:
        return _only_sliced(module, computation, user, element)
    inner = module.callees(user, "call")
    return bool(inner) and all(
        _only_sliced(module, callee, instruction, element)
        for callee in inner
        for instruction in callee.instructions.values()
        if instruction.opcode == "parameter" and int(instruction.arguments) == position
    )


def _knows_device(
    module: Module,
    computation: Computation,
    values: tuple[Instruction, ...],
    seen: set[tuple[str, str]],
) -> bool:
    """Whether any of the values depends on which device computes it."""
    for value in values:
        if value.opcode in _DEVICE:
            return True
        if (computation.name, value.name) in seen:
            continue
        seen.add((computation.name, value.name))
        for place, source in _sources(module, computation, value):
            if _knows_device(module, place, (source,), seen):
                return True
    return False


def _sources(
    module: Module, computation: Computation, value: Instruction, element: int | None = None
) -> Iterator[tuple[Computation, Instruction]]:
    """The values that a value, or one element of it, is computed from.

    Parameters are followed out of fusions, and to a loop's first state: XLA hoists offsets out of
    loops. What a loop's later iterations make of its state is not looked at.
    """
    operands = computation.operands(value)
    if value.opcode == "get-tuple-element":
        yield from _sources(module, computation, operands[0], value.index)
    elif value.opcode == "parameter":
        for call in module.calls.get(computation.name, ()):
            arguments = call.caller.operands(call.instruction)
            if call.role == "call":
                yield call.caller, arguments[int(value.arguments)]
            elif call.role == "body":
                yield from _sources(module, call.caller, arguments[0], element)
    elif value.opcode == "tuple" and element is not None:
        yield computation, operands[element]
    else:
        for operand in operands:
            yield computation, operand
        for callee in module.callees(value, "call"):
            yield callee, callee.root
