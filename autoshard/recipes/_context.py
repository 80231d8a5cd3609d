"""What recipes want to know of a program before they start: data, parameters, dependence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autoshard.plan import MeshShape, Roles
from autoshard.recipes._flow import Flow
from autoshard.rules import FactorKind, OpRule, RuledProgram
from autoshard.tracing import TIE, Op

_PROBE = MeshShape(("batch",), (1,))
"""An axis of one device: where it goes, the batch goes, whatever divides what."""


@dataclass(frozen=True, eq=False)
class Context:
    """A program as recipes see it.

    Args:
        ruled: The program with its rules.
        roles: State and data.
    """

    ruled: RuledProgram
    roles: Roles

    @cached_property
    def _batch(self) -> Flow:
        """Where the batch goes."""
        flow = Flow(self.ruled, _PROBE)
        for op_id in self.roles.data:
            seed_batch(flow, op_id, _PROBE.names)
        flow.spread(_PROBE.names)
        return flow

    @cached_property
    def batch_ops(self) -> frozenset[int]:
        """Ops that work on one example at a time: the batch dimension is a factor of theirs."""
        return frozenset(self._batch.labels)

    def batch_dim(self, value: int) -> int | None:
        """The dimension of a value that is the batch, if it has one."""
        return self._batch.where(value, _PROBE.names)

    def batch_factor(self, op_id: int) -> str | None:
        """The factor of an op that is the batch, if it has one."""
        return next(iter(self._batch.labels.get(op_id, {})), None)

    @cached_property
    def gradient_ops(self) -> frozenset[int]:
        """Ops on the batch whose results only ops outside of it read: they sum over examples."""
        program = self.ruled.program
        return frozenset(
            op_id
            for op_id in self.batch_ops
            if any(program.consumers[result] for result in program.ops[op_id].results)
            and all(
                consumer not in self.batch_ops
                for result in program.ops[op_id].results
                for consumer, _ in program.consumers[result]
            )
        )

    @cached_property
    def data_dependent(self) -> frozenset[int]:
        """Values that depend on data."""
        program = self.ruled.program
        found = {program.ops[op_id].results[0] for op_id in self.roles.data}
        size = -1
        while len(found) != size:  # once more per nested loop: carries close a cycle
            size = len(found)
            for op in program.ops:
                if not op.structured and any(o in found for o in op.operands if type(o) is int):
                    found.update(op.results)
        return frozenset(found)

    @cached_property
    def parameter_values(self) -> dict[int, int]:
        """Values computed from state or captured arrays alone → one argument op behind each."""
        program = self.ruled.program
        dependent = self.data_dependent
        data = set(self.roles.data)
        found: dict[int, int] = {}
        for leaf in program.arguments:
            value = program.ops[leaf.op].results[0]
            if leaf.op not in data:
                found[value] = leaf.op
        for op in program.ops:
            if op.structured:
                continue
            roots = [found[o] for o in op.operands if type(o) is int and o in found]
            if roots:
                found.update((r, roots[0]) for r in op.results if r not in dependent)
        return found

    @cached_property
    def parameters(self) -> frozenset[int]:
        """Argument ops of arrays that ops on the batch read: weights, whatever they are called."""
        program = self.ruled.program
        return frozenset(
            self.parameter_values[operand]
            for op in program.ops
            if op.id in self.batch_ops
            for operand in op.operands
            if type(operand) is int and operand in self.parameter_values
        )

    @cached_property
    def learned(self) -> frozenset[int]:
        """Argument ops of state on which a result that is not state depends, such as the loss.

        Optimizer state influences nothing but state; a scale that meets the batch only through a
        statistic (batch norm) influences the loss, though no op on the batch reads it.
        """
        program = self.ruled.program
        state = self.roles.argument_of_result
        found = {
            operand
            for leaf in program.results
            if leaf.op not in state
            for operand in program.ops[leaf.op].operands
            if type(operand) is int
        }
        size = -1
        while len(found) != size:  # once more per nested loop: carries close a cycle
            size = len(found)
            for op in reversed(program.ops):
                if not op.structured and any(r in found for r in op.results):
                    found.update(o for o in op.operands if type(o) is int)
        return frozenset(
            op for op in self.roles.state_of_argument if program.ops[op].results[0] in found
        )

    def weight_operands(self, op: Op, rule: OpRule) -> tuple[int, ...]:
        """Operands through which an op on the batch contracts, or looks up rows of, a weight.

        Args:
            op: The op.
            rule: Its rule.

        Returns:
            Operand indices: computed from parameters alone, of rank two or more, with a factor
            that is summed over. Empty when the op is something else.
        """
        if op.id not in self.batch_ops or op.primitive == TIE:
            return ()
        values = self.parameter_values
        found = [i for i, o in enumerate(op.operands) if type(o) is int and o in values]
        if not found or len(found) == len(op.operands):
            return ()
        reductions = set(rule.of_kind(FactorKind.REDUCTION))
        return tuple(
            i
            for i in found
            if len(rule.operands[i]) >= 2
            and any(name in reductions for dim in rule.operands[i] for name in dim)
        )


def seed_batch(flow: Flow, op_id: int, unit: tuple[str, ...], skip: int = 0) -> bool:
    """Put a unit on the batch dimension of a data argument.

    The batch dimension is the first one that the argument's readers do not need whole: of
    microbatches stacked for a scan it is the second.

    Args:
        flow: The flow.
        op_id: The argument op.
        unit: The unit.
        skip: How many such dimensions to pass over: the sequence is the one after the batch.

    Returns:
        Whether there is such a dimension and the unit divides it.
    """
    program = flow.program
    value = program.values[program.ops[op_id].results[0]]
    for d in range(len(value.shape)):
        kinds = [
            rule.factors[name].kind
            for consumer, index in program.consumers[value.id]
            if (rule := flow.ruled.rules[consumer]) is not None
            for name in rule.operands[index][d]
        ]
        if FactorKind.WHOLE in kinds and not {FactorKind.PARALLEL, FactorKind.HALO} & set(kinds):
            continue
        if skip:
            skip -= 1
            continue
        why = "batch dimension of the data" if not d else f"dimension {d} of the data"
        return flow.put_dim(op_id, d, unit, why)
    return False
