"""Propagation over a whole program."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from autoshard.plan import Label, Labelling, MeshShape, Reason, Spec
from autoshard.recipes.propagate._hints import Hints
from autoshard.recipes.propagate._infer import infer
from autoshard.recipes.propagate._labels import choose_labels
from autoshard.recipes.propagate._schedule import Schedule, Turn
from autoshard.recipes.propagate._slots import Slot, Slots
from autoshard.rules import OpRule, RuledProgram
from autoshard.tracing import ARGUMENT, RESULT, TIE


@dataclass(frozen=True, eq=False)
class Propagated:
    """What was found.

    Args:
        ruled: The program.
        mesh: The mesh.
        slots: The sharding of every array.
    """

    ruled: RuledProgram
    mesh: MeshShape
    slots: Slots

    def value(self, value_id: int) -> Spec:
        """The spec of a value: in it the value is wanted, whatever op makes it."""
        return self.slots.values[value_id].spec

    def result(self, op_id: int) -> Spec:
        """The spec of what the program returns at a ``result`` op."""
        return self.slots.results[op_id].spec

    @cached_property
    def labels(self) -> Mapping[int, Label]:
        """For each op the label that needs the least resharding; replicated ops are left out."""
        return choose_labels(self.ruled, self.mesh, self.slots)

    def reasons(self, op_id: int) -> dict[str, Reason]:
        """Why an argument or result has each of its axes."""
        slot = self.slots.made_by(op_id)[0]
        return {axis: self._reason(slot, axis) for dim in slot.dims for axis in dim}

    def _reason(self, slot: Slot, axis: str) -> Reason:
        """Follow an axis to the hint that brought it."""
        through: list[str] = []
        while axis in slot.found:
            slot, op_id = slot.found[axis]
            through.append(self.ruled.program.ops[op_id].primitive)
        source = slot.hint.source if slot.hint is not None else "given"
        if not through:
            return Reason(source)
        way = next((p for p in through if p not in (ARGUMENT, RESULT, TIE)), None)
        path = self._paths.get(id(slot))
        text = f"follows {path or source}" + (f" through {way}" if way else "")
        return Reason(text, (path,) if path else ())

    @cached_property
    def _paths(self) -> dict[int, str]:
        program = self.ruled.program
        leaves = (*program.results, *program.arguments)  # arguments name what both are
        return {id(self.slots.made_by(leaf.op)[0]): leaf.path for leaf in leaves}

    def labelling(self) -> Labelling:
        """The labels with the reasons of arguments and results."""
        program = self.ruled.program
        reasons: dict[int, Reason] = {}
        for leaf in (*program.arguments, *program.results):
            parts = self.reasons(leaf.op)
            if parts:
                text = "; ".join(f"{axis}: {reason.text}" for axis, reason in parts.items())
                follows = tuple(path for reason in parts.values() for path in reason.follows)
                reasons[leaf.op] = Reason(text, follows)
        return Labelling(self.ruled, self.mesh, self.labels, reasons)


def propagate(ruled: RuledProgram, mesh: MeshShape, hints: Hints) -> Propagated:
    """Find the specs of all arrays of a program from those of some.

    Args:
        ruled: The program with its rules.
        mesh: The mesh.
        hints: What is given. Closed dimensions and replicated axes hold.

    Returns:
        Specs, labels and reasons. Arrays that no hint reaches stay whole.

    Raises:
        SpecError: A hint does not fit its array or the mesh.
        PinConflictError: Two arrays of a group are given what cannot both hold.
    """
    slots = Slots(ruled.program, mesh, hints)
    rules: dict[int, OpRule] = {}
    for op in ruled.program.ops:
        rule = ruled.rules[op.id]
        if rule is not None and op.primitive != ARGUMENT:
            rules[op.id] = _passed_on(rule) if op.primitive == RESULT else rule
    schedule = Schedule(ruled.program, rules)
    readers = _ops_of_slots(slots, rules)
    given = [slot.hint for slot in (*slots.values, *slots.results.values()) if slot.hint]
    for priority in sorted({dim.priority for hint in given for dim in hint.dims}):
        for turn in Turn:
            _settle(mesh, slots, rules, schedule, readers, priority, turn)
    return Propagated(ruled, mesh, slots)


def _passed_on(rule: OpRule) -> OpRule:
    """The rule of a ``result`` op with the array that the program returns as its result."""
    return OpRule(operands=rule.operands, results=rule.operands, factors=rule.factors)


def _ops_of_slots(slots: Slots, rules: Iterable[int]) -> dict[int, list[int]]:
    """Id of a slot → the ops that read or make its arrays."""
    found: dict[int, list[int]] = {}
    for op_id in rules:
        for slot in (*slots.operands(op_id), *slots.made_by(op_id)):
            if slot is not None and slot.shape:
                found.setdefault(id(slot), []).append(op_id)
    return found


def _settle(
    mesh: MeshShape,
    slots: Slots,
    rules: Mapping[int, OpRule],
    schedule: Schedule,
    readers: Mapping[int, list[int]],
    priority: int,
    turn: Turn,
) -> None:
    """Let ops infer, earlier ones first, until nothing changes."""
    cut = {id(s) for s in (*slots.values, *slots.results.values()) if any(s.dims)}
    waiting = sorted({op_id for slot in cut for op_id in readers.get(slot, ())})
    queued = set(waiting)
    while waiting:
        op_id = heapq.heappop(waiting)
        queued.discard(op_id)
        if schedule.waits(op_id, turn):
            continue
        changed = infer(
            rules[op_id],
            slots.operands(op_id),
            slots.made_by(op_id),
            mesh,
            priority=priority,
            direction=partial(schedule.learns, op_id, turn),
            op_id=op_id,
        )
        for slot in changed:
            for other in readers[id(slot)]:
                if other not in queued:
                    queued.add(other)
                    heapq.heappush(waiting, other)
