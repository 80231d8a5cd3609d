"""Spreading axes along the data flow of a program.

A flow carries one *unit* (a mesh axis, or several used as one) from the ops where a recipe put it
to all others: forward from operands to results and backward from readers to producers, one op at a
time, until nothing changes. An op keeps the first factor it was given. Where operands disagree, a
factor that needs no communication is preferred to a reduction, then the larger operand.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Literal as OneOf

from autoshard.plan import Labelling, MeshShape, Reason, Spec, is_miscompiled, project
from autoshard.rules import FactorKind, OpRule, RuledProgram
from autoshard.tracing import ARGUMENT, RESULT, TIE, Op, nbytes

Unit = tuple[str, ...]
Verdict = tuple[str, str] | OneOf["skip"] | None
"""What a decision says of an op: a factor with the reason, "skip" to leave it, None for no say."""
Decision = Callable[[Op, OpRule], Verdict]

_RANK = {FactorKind.PARALLEL: 2, FactorKind.HALO: 1, FactorKind.REDUCTION: 0}


class Flow:
    """The labels of a program while they are being found.

    Args:
        ruled: The program with its rules.
        mesh: The mesh.
    """

    def __init__(self, ruled: RuledProgram, mesh: MeshShape) -> None:
        self.ruled = ruled
        self.program = ruled.program
        self.mesh = mesh
        self.labels: dict[int, dict[str, Unit]] = {}
        self.muted: set[int] = set()
        """Values whose sharding is not passed on to their readers."""
        self.modest: frozenset[int] = frozenset()
        """Ops that take their operands as they come: their producers do not follow them."""
        self._axes: dict[int, set[str]] = {}
        self._held: dict[int, frozenset[str]] = {}
        """Op → factors that take nothing more."""
        self.pins: dict[int, tuple[Spec, frozenset[int], str | int]] = {}
        """What was fixed: op → spec, open dimensions and why."""
        self._why: dict[int, list[tuple[Unit, str | int | Reason]]] = {}
        self._where: dict[str, dict[int, int]] = {name: {} for name in mesh.names}
        leaves = (*self.program.arguments, *self.program.results)
        self._paths = {leaf.op: leaf.path for leaf in leaves}

    # Reading ----------------------------------------------------------------------------------

    def labelled(self, op_id: int, unit: Unit) -> bool:
        """Whether an op already uses an axis of the unit."""
        axes = self._axes.get(op_id)
        return axes is not None and not axes.isdisjoint(unit)

    def where(self, value: int, unit: Unit) -> int | None:
        """The dimension on which the unit shards a value."""
        return self._where[unit[0]].get(value)

    def dim_of(self, op_id: int, unit: Unit) -> int | None:
        """The dimension of an argument's or result's array on which an op carries the unit."""
        rule, label = self.ruled.rules[op_id], self.labels.get(op_id, {})
        assert rule is not None
        for d, dim in enumerate((rule.results or rule.operands)[0]):
            if any(unit[0] in label.get(name, ()) for name in dim):
                return d
        return None

    def factor_at(self, op_id: int, rule: OpRule, dim: Iterable[str], unit: Unit) -> str | None:
        """The factor of a dimension that a unit on that dimension falls on."""
        label = self.labels.get(op_id, {})
        n = self.mesh.size_of(unit)
        for name in dim:
            factor = rule.factors[name]
            if factor.kind is FactorKind.WHOLE:
                return None
            if factor.kind is FactorKind.HALO:
                return name
            used = self.mesh.size_of(label.get(name, ()))
            if used == factor.size:
                continue
            return name if factor.size % (used * n) == 0 else None
        return None

    def can_put(self, op_id: int, name: str, unit: Unit) -> bool:
        """Whether a unit may be added to a factor of an op."""
        rule = self.ruled.rules[op_id]
        assert rule is not None
        factor = rule.factors[name]
        if factor.kind is FactorKind.WHOLE or self.labelled(op_id, unit):
            return False
        if name in self._held.get(op_id, ()):
            return False
        label = self.labels.get(op_id, {})
        op = self.program.ops[op_id]
        if is_miscompiled(op.primitive, op.params, rule, {**label, name: unit}):
            return False
        n = self.mesh.size_of(unit) * self.mesh.size_of(label.get(name, ()))
        if factor.kind is FactorKind.HALO:
            if any(self._size(op_id, place) % n for place in rule.places(name)):
                return False
        elif factor.size % n:
            return False
        for side, index, d in rule.places(name):
            if side == "result":
                for major in rule.results[index][d]:
                    if major == name:
                        break
                    if self.mesh.size_of(label.get(major, ())) != rule.factors[major].size:
                        return False
        return True

    def _size(self, op_id: int, place: tuple[str, int, int]) -> int:
        side, index, d = place
        op = self.program.ops[op_id]
        if side == "operand":
            return int(self.program.aval(op.operands[index]).shape[d])
        return self.program.values[op.results[index]].shape[d]

    # Writing ----------------------------------------------------------------------------------

    def put(self, op_id: int, name: str, unit: Unit, why: str | int | Reason) -> bool:
        """Put a unit on a factor of an op.

        Args:
            op_id: The op.
            name: The factor.
            unit: The unit.
            why: The reason in words, or the id of the op that it follows.

        Returns:
            Whether it was legal and new.
        """
        if not self.can_put(op_id, name, unit):
            return False
        rule = self.ruled.rules[op_id]
        assert rule is not None
        label = self.labels.setdefault(op_id, {})
        label[name] = label.get(name, ()) + unit
        self._axes.setdefault(op_id, set()).update(unit)
        self._why.setdefault(op_id, []).append((unit, why))
        for index, value in enumerate(self.program.ops[op_id].results):
            shape = self.program.values[value].shape
            spec = project(rule.results[index], rule, label, shape, self.mesh)
            for d, axes in enumerate(spec.dims):
                if unit[0] in axes and value not in self.muted:
                    self._where[unit[0]][value] = d
        return True

    def put_dim(self, op_id: int, d: int, unit: Unit, why: str | int) -> bool:
        """Put a unit on a dimension of an argument's or result's array."""
        rule = self.ruled.rules[op_id]
        assert rule is not None
        dims = (rule.results or rule.operands)[0]
        return bool(dims[d]) and self.put(op_id, dims[d][0], unit, why)

    def fix(
        self, op_id: int, spec: Spec, why: str | int, open_dims: frozenset[int] = frozenset()
    ) -> None:
        """Give an argument, result or constraint a spec before anything spreads.

        Args:
            op_id: The op.
            spec: Its spec.
            why: As for `put`.
            open_dims: Dimensions that may get more axes; the others stay as they are.
        """
        rule = self.ruled.rules[op_id]
        assert rule is not None
        for d, axes in enumerate(spec.dims):
            for axis in axes:
                self.put_dim(op_id, d, (axis,), why)
        dims = (rule.results or rule.operands)[0]
        self._held[op_id] = frozenset(
            name for d, dim in enumerate(dims) if d not in open_dims for name in dim
        )
        self.pins[op_id] = (spec, open_dims, why)

    def is_held(self, op_id: int) -> bool:
        """Whether an op was given its spec from outside."""
        return op_id in self.pins

    def copy_label(self, argument: int, result: int) -> None:
        """Give a result the spec of the argument that it replaces."""
        label = self.labels.get(argument, {})
        rule, other = self.ruled.rules[argument], self.ruled.rules[result]
        assert rule is not None and other is not None
        names = {
            theirs: label[mine]
            for dim, dim_other in zip(rule.results[0], other.operands[0], strict=True)
            for mine, theirs in zip(dim, dim_other, strict=True)
            if mine in label
        }
        self.labels[result] = names
        self._why[result] = [(u, argument) for u, _ in self._why.get(argument, ())]

    # Spreading --------------------------------------------------------------------------------

    def spread(
        self, unit: Unit, decide: Decision | None = None, among: Container[int] | None = None
    ) -> None:
        """Carry a unit along the data flow until nothing changes.

        Args:
            unit: The unit.
            decide: Asked about every op that does not have the unit yet, in program order, before
                the op looks at its operands.
            among: The only ops that may get the unit, or give it to others; None for all.
        """
        changed = True
        while changed:
            changed = self._forward(unit, decide, among)
            changed = self._backward(unit, among) or changed

    def _forward(self, unit: Unit, decide: Decision | None, among: Container[int] | None) -> bool:
        changed = False
        where = self._where[unit[0]]
        for op in self.program.ops:
            rule = self.ruled.rules[op.id]
            if rule is None or self.labelled(op.id, unit):
                continue
            if among is not None and op.id not in among:
                continue
            if decide is not None:
                verdict = decide(op, rule)
                if verdict == "skip":
                    continue
                if verdict is not None:
                    if self.put(op.id, verdict[0], unit, verdict[1]):
                        self.pull(op.id, unit)
                        changed = True
                    continue
            if not any(isinstance(o, int) and o in where for o in op.operands):
                continue
            vote = self._operand_vote(op, rule, unit, among)
            if vote is not None:
                changed = self.put(op.id, vote[0], unit, vote[1]) or changed
        return changed

    def _operand_vote(
        self, op: Op, rule: OpRule, unit: Unit, among: Container[int] | None
    ) -> tuple[str, int] | None:
        best: tuple[tuple[int, int, int], str, int] | None = None
        for index, operand in enumerate(op.operands):
            if not isinstance(operand, int):
                continue
            d = self.where(operand, unit)
            if d is None:
                continue
            if among is not None and self.program.values[operand].producer not in among:
                continue
            name = self.factor_at(op.id, rule, rule.operands[index][d], unit)
            if name is None or not self.can_put(op.id, name, unit):
                continue
            weight = nbytes(self.program.values[operand].aval)
            score = (_RANK[rule.factors[name].kind], weight, -index)
            if best is None or score > best[0]:
                best = (score, name, operand)
        if best is None:
            return None
        return best[1], self.program.values[best[2]].producer

    def _backward(self, unit: Unit, among: Container[int] | None) -> bool:
        changed = False
        for op in reversed(self.program.ops):
            if among is not None and op.id not in among:
                continue
            if self.ruled.rules[op.id] is not None and not self.labelled(op.id, unit):
                changed = self._answer_readers(op, unit, among) or changed
        return changed

    def _answer_readers(self, op: Op, unit: Unit, among: Container[int] | None = None) -> bool:
        """Produce a value the way its readers want it."""
        rule = self.ruled.rules[op.id]
        assert rule is not None
        for index, value in enumerate(op.results):
            if value in self.muted:
                continue
            wanted: dict[int, int] = {}
            reader = -1
            for consumer, place in self.program.consumers[value]:
                if consumer in self.modest or not self.labelled(consumer, unit):
                    continue
                if among is not None and consumer not in among:
                    continue
                d = self._wanted(consumer, place, unit)
                if d is not None:
                    wanted[d] = wanted.get(d, 0) + 1
                    reader = consumer if reader < 0 else reader
            for d in sorted(wanted, key=lambda d: (-wanted[d], d)):
                name = self.factor_at(op.id, rule, rule.results[index][d], unit)
                if (
                    name is not None
                    and rule.factors[name].kind is not FactorKind.REDUCTION
                    and self.put(op.id, name, unit, reader)
                ):
                    return True
        return False

    def _wanted(self, consumer: int, place: int, unit: Unit) -> int | None:
        rule = self.ruled.rules[consumer]
        assert rule is not None
        shape = self.program.aval(self.program.ops[consumer].operands[place]).shape
        spec = project(rule.operands[place], rule, self.labels[consumer], shape, self.mesh)
        for d, axes in enumerate(spec.dims):
            if unit[0] in axes:
                return d
        return None

    def pull(self, op_id: int, unit: Unit) -> None:
        """Let the producers of an op's operands follow at once, as far as they are free."""
        stack = [op_id]
        while stack:
            for operand in self.program.ops[stack.pop()].operands:
                if not isinstance(operand, int):
                    continue
                producer = self.program.ops[self.program.values[operand].producer]
                if self.ruled.rules[producer.id] is None or self.labelled(producer.id, unit):
                    continue
                if self._answer_readers(producer, unit):
                    stack.append(producer.id)

    # The result -------------------------------------------------------------------------------

    def reason(self, op_id: int) -> Reason:
        """Why an op is sharded as it is: for each unit the seed that it follows, in words."""
        parts: list[str] = []
        follows: list[str] = []
        for unit, why in self._why.get(op_id, ()):
            through: list[str] = []
            seed, seen = op_id, {op_id}
            while isinstance(why, int) and why not in seen:
                seen.add(why)
                through.append(self.program.ops[why].primitive)
                ways = self._why.get(why, ())
                seed, why = why, next((w for u, w in ways if not set(u).isdisjoint(unit)), "")
            name = self._paths.get(seed) if through and through[-1] in (ARGUMENT, RESULT) else None
            text = why.text if isinstance(why, Reason) else str(why)
            follows += why.follows if isinstance(why, Reason) else ()
            if name:
                way = next((p for p in through if p not in (ARGUMENT, RESULT, TIE)), None)
                text = f"follows {name}" + (f" through {way}" if way else "")
                follows.append(name)
            parts.append(f"{'×'.join(unit)}: {text}")
        if not parts and op_id in self.pins:
            why = self.pins[op_id][2]
            followed = (self._paths[why],) if isinstance(why, int) else ()
            return Reason(f"follows {followed[0]}" if followed else str(why), followed)
        return Reason("; ".join(parts), tuple(follows))

    def labelling(self) -> Labelling:
        """The labels found so far, with reasons for the arguments and results."""
        leaves = (*self.program.arguments, *self.program.results)
        reasons = {
            leaf.op: self.reason(leaf.op)
            for leaf in leaves
            if self._why.get(leaf.op) or leaf.op in self.pins
        }
        return Labelling(self.ruled, self.mesh, self.labels, reasons)
