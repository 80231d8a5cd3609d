"""Holding pins in a flow: before a strategy spreads anything, and spreading from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from autoshard.recipes._context import Context
from autoshard.recipes._flow import Flow
from autoshard.recipes.pins._pin import Pin
from autoshard.tracing import Leaf


def hold_pins(flow: Flow, context: Context, pins: Mapping[int, Pin]) -> None:
    """Give pinned ops their specs, and optimizer state that of the parameter that it mirrors.

    Args:
        flow: An empty flow.
        context: The program.
        pins: Op id of an argument, result or constraint → its pin.
    """
    for op_id, pin in pins.items():
        flow.fix(op_id, pin.spec, pin.why, pin.open_dims)
    state = context.roles.state_of_argument
    arguments = [leaf for leaf in flow.program.arguments if leaf.op in state]
    pinned = [leaf for leaf in arguments if leaf.op in pins and not pins[leaf.op].inherited]
    for leaf in pinned:
        pin = pins[leaf.op]
        for other in _mirrors(flow, context, leaf, arguments):
            if other.op not in pins and not flow.is_held(other.op):
                for op_id in (other.op, state[other.op]):
                    flow.fix(op_id, pin.spec, leaf.op, pin.open_dims)
    update = {op.id for op in flow.program.ops} - context.batch_ops
    for axis in pinned_axes(pins[leaf.op] for leaf in pinned):
        flow.spread((axis,), among=update)  # factored moments follow their dimension


def spread_pins(flow: Flow, axes: Iterable[str]) -> None:
    """Carry pinned axes to the ops that do not have them yet.

    Args:
        flow: The flow, with the pins.
        axes: The axes, each on its own.
    """
    for axis in axes:
        flow.spread((axis,))


def fill_open(flow: Flow, pins: Mapping[int, Pin]) -> None:
    """Give the open dimensions of pinned values what the ops around them have.

    A term that uses several axes as one leaves out values that have one of them already.

    Args:
        flow: The flow, with every term applied.
        pins: The pins.
    """
    program = flow.program
    for op_id, pin in pins.items():
        if not pin.open_dims:
            continue
        op = program.ops[op_id]
        makers = [program.values[o].producer for o in op.operands if isinstance(o, int)]
        readers = [reader for value in op.results for reader, _ in program.consumers[value]]
        for axis in flow.mesh.names:
            flow.spread((axis,), among={op_id, *makers, *readers})


def pinned_axes(pins: Iterable[Pin]) -> list[str]:
    """The axes that users pinned something to, sorted."""
    return sorted({axis for pin in pins if not pin.inherited for axis in pin.spec.axes})


def _mirrors(flow: Flow, context: Context, pinned: Leaf, arguments: Sequence[Leaf]) -> list[Leaf]:
    """State of the shape of a pinned array that the update ties to it element by element.

    State that nothing ties to any parameter mirrors the parameter of its shape whose path ends
    like its own.
    """
    program = flow.program
    tied = _tied(flow, context, program.argument_value(pinned).id)
    shape = program.argument_value(pinned).shape
    parameters = [
        leaf for leaf in arguments if leaf.op in context.parameters or leaf.op in context.learned
    ]
    found: list[Leaf] = []
    for leaf in arguments:
        value = program.argument_value(leaf)
        if leaf.op == pinned.op or value.shape != shape or not shape:
            continue
        if value.id in tied:
            found.append(leaf)
        elif leaf not in parameters:
            alike = [p for p in parameters if program.argument_value(p).shape == shape]
            ends = [_common_end(leaf.path, p.path) for p in alike]
            if pinned in alike and 0 < max(ends) == ends[alike.index(pinned)]:
                found.append(leaf)
    return found


def _common_end(one: str, other: str) -> int:
    """How many parts two paths have in common, from their ends."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _tied(flow: Flow, context: Context, value: int) -> set[int]:
    """Values that ops outside of the batch combine with a value element by element."""
    program = flow.program
    found, stack = {value}, [value]
    while stack:
        here = stack.pop()
        made = program.values[here]
        places = [(made.producer, "result", made.index)]
        places += [(op_id, "operand", index) for op_id, index in program.consumers[here]]
        for op_id, side, index in places:
            rule, op = flow.ruled.rules[op_id], program.ops[op_id]
            if rule is None or op_id in context.batch_ops:
                continue
            dims = (rule.results if side == "result" else rule.operands)[index]
            for other, theirs in (
                *zip(op.operands, rule.operands, strict=True),
                *zip(op.results, rule.results, strict=True),
            ):
                if isinstance(other, int) and theirs == dims and other not in found:
                    found.add(other)
                    stack.append(other)
    return found
