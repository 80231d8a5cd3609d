"""From a jaxpr to a `Program`.

Calls are inlined; loops, branches and rematerialized calls become structured ops with ties
(`_regions`); everything else, known or not, becomes one op that is emitted again as it was traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoshard._compat import join_scopes
from autoshard.tracing._program import (
    ARGUMENT,
    RESULT,
    TIE,
    Block,
    Leaf,
    Literal,
    Op,
    Value,
)
from autoshard.tracing._regions import INLINED, REGIONS
from autoshard.tracing._split import is_repeatable

Operand = int | Literal


class Frame:
    """The block being built: its ops so far and what surrounds it."""

    def __init__(self, parent: int | None, count: int, exact: bool) -> None:
        self.ops: list[int] = []
        self.parent = parent
        self.count = count
        self.exact = exact


class Builder:
    """Collects ops and values.

    Args:
        keep_custom: Keep ``custom_jvp`` and ``custom_vjp`` calls, for a program that may still be
            differentiated: inlining them would lose the user's gradient.
        while_trips: Assumed trip count of a ``while`` loop.
    """

    def __init__(self, *, keep_custom: bool, while_trips: int) -> None:
        self.keep_custom = keep_custom
        self.while_trips = while_trips
        self.ops: list[Op | None] = []
        self.values: list[Value] = []
        self.captured: list[Any] = []
        self.captured_leaves: list[Leaf] = []
        self._repeatable: set[int] = set()
        self._used: set[int] = set()
        self._top: Frame | None = None

    # Values and ops ---------------------------------------------------------------------------

    def reserve(self) -> int:
        """An op id to be filled in later: regions refer to the op that owns them."""
        self.ops.append(None)
        return len(self.ops) - 1

    def value(self, aval: Any, producer: int, index: int) -> int:
        """A new value."""
        self.values.append(Value(len(self.values), aval, producer, index))
        return len(self.values) - 1

    def op(
        self,
        frame: Frame,
        primitive: str,
        operands: Sequence[Operand],
        result_avals: Sequence[Any],
        *,
        op_id: int | None = None,
        results: Sequence[int] | None = None,
        in_block: bool = True,
        **fields: Any,
    ) -> Op:
        """Add an op to a block.

        Args:
            frame: The block.
            primitive: Name.
            operands: Operands, already read with `use`.
            result_avals: Avals of the values to make; ignored when ``results`` is given.
            op_id: A reserved id.
            results: Existing values, for structured ops whose results their ties make.
            in_block: False for ties, which are not emitted.
            **fields: The remaining fields of `Op`.

        Returns:
            The op.
        """
        op_id = self.reserve() if op_id is None else op_id
        if results is None:
            results = [self.value(aval, op_id, i) for i, aval in enumerate(result_avals)]
        op = Op(
            id=op_id,
            primitive=primitive,
            operands=tuple(operands),
            results=tuple(results),
            count=frame.count,
            exact_count=frame.exact,
            parent=frame.parent,
            **{"params": {}, **fields},
        )
        self.ops[op_id] = op
        if in_block:
            frame.ops.append(op_id)
        return op

    def tie(
        self,
        frame: Frame,
        operands: Sequence[Operand],
        result_avals: Sequence[Any],
        *,
        operand_leading: Sequence[int] | None = None,
        result_leading: Sequence[int] | None = None,
        kind: str,
    ) -> Op:
        """Add a tie: one variable on both sides of a region's border."""
        return self.op(
            frame,
            TIE,
            operands,
            result_avals,
            in_block=False,
            params={
                "kind": kind,
                "operand_leading": tuple(operand_leading or (0,) * len(operands)),
                "result_leading": tuple(result_leading or (0,) * len(result_avals)),
            },
        )

    def use(self, frame: Frame, operand: Operand) -> Operand:
        """Read an operand; a second use of a repeatable op gets a copy of the op."""
        if isinstance(operand, Literal):
            return operand
        producer = self.ops[self.values[operand].producer]
        if producer is None or producer.id not in self._repeatable:
            return operand
        if operand not in self._used:
            self._used.add(operand)
            return operand
        copy = self.op(
            frame,
            producer.primitive,
            [self.use(frame, o) for o in producer.operands],
            [self.values[r].aval for r in producer.results],
            params=producer.params,
            eqn=producer.eqn,
            scope=producer.scope,
        )
        self._repeatable.add(copy.id)
        index = producer.results.index(operand)
        self._used.add(copy.results[index])
        return copy.results[index]

    def capture(self, array: Any, aval: Any) -> Operand:
        """An array that the function closed over becomes an argument of the program."""
        for leaf, known in zip(self.captured_leaves, self.captured, strict=True):
            if known is array:
                return self._op(leaf.op).results[0]
        assert self._top is not None
        op = self.op(self._top, ARGUMENT, (), [aval], in_block=False)
        self.captured.append(array)
        self.captured_leaves.append(Leaf(f"captured/{len(self.captured) - 1}", op.id, True))
        return op.results[0]

    def _op(self, op_id: int) -> Op:
        op = self.ops[op_id]
        assert op is not None
        return op

    # Jaxprs -----------------------------------------------------------------------------------

    def constants(self, frame: Frame, jaxpr: Any, consts: Sequence[Any]) -> list[Operand]:
        """Operands for the constants of a closed jaxpr.

        Arrays become captured arguments, but inside a region, where only the region's own
        operands are visible, they stay constants.
        """
        found: list[Operand] = []
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            if frame is self._top and np.ndim(const) > 0:
                found.append(self.capture(const, var.aval))
            else:
                found.append(Literal(const, var.aval))
        return found

    def inline(
        self,
        frame: Frame,
        jaxpr: Any,
        inputs: Sequence[Operand],
        *,
        consts: Sequence[Any] = (),
        scope: Any = None,
    ) -> list[Operand]:
        """Add a jaxpr's equations to a block and return what it returns."""
        env: dict[Any, Operand] = {}

        def read(atom: Any) -> Operand:
            if not hasattr(atom, "val"):
                return env[atom]
            if np.ndim(atom.val) > 0 and frame is self._top:
                return self.capture(atom.val, atom.aval)
            return Literal(atom.val, atom.aval)

        env.update(zip(jaxpr.constvars, self.constants(frame, jaxpr, consts), strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            name = str(eqn.primitive)
            operands = [read(a) for a in eqn.invars]
            body = INLINED[name](eqn, self.keep_custom) if name in INLINED else None
            if body is not None:
                inner, inner_consts = body
                results = self.inline(
                    frame, inner, operands, consts=inner_consts, scope=join_scopes(scope, eqn)
                )
            elif name in REGIONS:
                results = REGIONS[name](self, frame, eqn, operands, scope)
            else:
                results = self._plain(frame, eqn, name, operands, scope)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def _plain(
        self, frame: Frame, eqn: Any, name: str, operands: list[Operand], scope: Any
    ) -> tuple[int, ...]:
        read = [self.use(frame, o) for o in operands]
        result_avals = [v.aval for v in eqn.outvars]
        op = self.op(frame, name, read, result_avals, params=eqn.params, eqn=eqn, scope=scope)
        values = [o for o in read if isinstance(o, int)]
        if not eqn.effects and is_repeatable(
            name,
            [self.values[v].aval for v in values],
            all(self.values[v].producer in self._repeatable for v in values),
            result_avals,
        ):
            self._repeatable.add(op.id)
        return op.results

    def block(
        self,
        owner: int,
        frame: Frame,
        jaxpr: Any,
        inputs: Sequence[int],
        *,
        consts: Sequence[Any] = (),
        trips: int = 1,
        exact: bool = True,
    ) -> Block:
        """Build one body of a structured op."""
        inner = Frame(owner, frame.count * trips, frame.exact and exact)
        outputs = self.inline(inner, jaxpr, inputs, consts=consts)
        outputs = [self.use(inner, o) for o in outputs]
        return Block(tuple(inputs), tuple(inner.ops), tuple(outputs))

    def top(
        self, jaxpr: Any, consts: Sequence[Any], paths: Sequence[str], result_paths: Sequence[str]
    ) -> tuple[Block, list[Leaf], list[Leaf]]:
        """Build the outermost block with its arguments and results."""
        frame = self._top = Frame(None, 1, True)
        arguments: list[Leaf] = []
        inputs: list[int] = []
        for path, var in zip(paths, jaxpr.invars, strict=True):
            op = self.op(frame, ARGUMENT, (), [var.aval], in_block=False)
            arguments.append(Leaf(path, op.id))
            inputs.append(op.results[0])
        outputs = self.inline(frame, jaxpr, inputs, consts=consts)
        results = []
        for path, output in zip(result_paths, outputs, strict=True):
            op = self.op(frame, RESULT, [self.use(frame, output)], (), in_block=False)
            results.append(Leaf(path, op.id))
        arguments += self.captured_leaves
        inputs += [self._op(leaf.op).results[0] for leaf in self.captured_leaves]
        outputs = [self._op(leaf.op).operands[0] for leaf in results]
        return Block(tuple(inputs), tuple(frame.ops), tuple(outputs)), arguments, results
