"""From a jaxpr to a `Program`.

Calls are inlined; loops, branches and rematerialized calls become structured ops with ties
(`_regions`); everything else, known or not, becomes one op that is emitted again as it was traced.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from autoshard._compat import join_scopes
from autoshard.tracing._capture import Hoists, identity
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
from autoshard.tracing._split import MAX_CHAIN, is_repeatable

Operand = int | Literal


class Frame:
    """The block being built: its ops so far and what surrounds it.

    Args:
        parent: Id of the op that owns the block; None for the outermost.
        count: How often the block runs.
        exact: Whether that is known.
        outer: The block around it.
        hoists: Through which closed-over arrays enter it; None where they stay constants.
        index: Which body of its owner it is.
    """

    def __init__(
        self,
        parent: int | None,
        count: int,
        exact: bool,
        *,
        outer: Frame | None = None,
        hoists: Hoists | None = None,
        index: int = 0,
    ) -> None:
        self.ops: list[int] = []
        self.parent = parent
        self.count = count
        self.exact = exact
        self.outer = outer
        self.hoists = hoists
        self.index = index


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
        self._captured_values: dict[Hashable, int] = {}
        self._chains: dict[int, int] = {}  # repeatable op → ops that a copy of it makes
        self._used: set[int] = set()

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
        params: Mapping[str, Any] | None = None,
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
            params: The primitive's params.
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
            params=params or {},
            **fields,
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
        if producer is None or producer.id not in self._chains:
            return operand
        if producer.id not in self._used:
            self._used.add(producer.id)
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
        self._chains[copy.id] = self._chains[producer.id]
        self._used.add(copy.id)
        return copy.results[producer.results.index(operand)]

    def capture(self, frame: Frame, array: Any, aval: Any) -> Operand:
        """An array that the function closed over becomes an argument of the program.

        In a region it enters through a tie of the region, as if JAX had passed it as an operand
        (which it does, but for arrays that a call inside the region closes over).
        """
        key = identity(array, aval)
        if frame.outer is None:
            if key not in self._captured_values:
                op = self.op(frame, ARGUMENT, (), [aval], in_block=False)
                self.captured_leaves.append(Leaf(f"captured/{len(self.captured)}", op.id, True))
                self.captured.append(array)
                self._captured_values[key] = op.results[0]
            return self._captured_values[key]
        hoists = frame.hoists
        if hoists is None:
            return Literal(array, aval)
        if key not in hoists.ties:
            outside = self.capture(frame.outer, array, aval)
            if isinstance(outside, Literal):
                return outside
            inside = [aval] * hoists.bodies
            hoists.ties[key] = self.tie(frame.outer, [outside], inside, kind=hoists.kind)
        return hoists.ties[key].results[frame.index]

    def _op(self, op_id: int) -> Op:
        op = self.ops[op_id]
        assert op is not None
        return op

    # Jaxprs -----------------------------------------------------------------------------------

    def constant(self, frame: Frame, value: Any, aval: Any) -> Operand:
        """An operand for a constant: a scalar stays one, an array is captured."""
        if np.ndim(value) > 0:
            return self.capture(frame, value, aval)
        return Literal(value, aval)

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
            return self.constant(frame, atom.val, atom.aval) if hasattr(atom, "val") else env[atom]

        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(frame, const, var.aval)
        env.update(zip(jaxpr.invars, inputs, strict=True))
        for eqn in jaxpr.eqns:
            name = str(eqn.primitive)
            operands = [read(a) for a in eqn.invars]
            body = INLINED[name](eqn, self.keep_custom) if name in INLINED else None
            if body is not None:
                inner, inner_consts = body
                operands = self._pin(frame, eqn, "in_shardings", operands, scope)
                results = self.inline(
                    frame, inner, operands, consts=inner_consts, scope=join_scopes(scope, eqn)
                )
                results = self._pin(frame, eqn, "out_shardings", results, scope)
            elif name in REGIONS and not _shares_memory(eqn):
                results = REGIONS[name](self, frame, eqn, operands, scope)
            else:
                results = self._plain(frame, eqn, name, operands, scope)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def _pin(
        self, frame: Frame, call: Any, side: str, operands: list[Operand], scope: Any
    ) -> list[Operand]:
        """Shardings that the user gave to an inlined ``jax.jit`` become constraints."""
        pinned = list(operands)
        for i, sharding in enumerate(call.params.get(side, ())):
            if isinstance(sharding, jax.sharding.Sharding):
                aval = (call.invars if side == "in_shardings" else call.outvars)[i].aval
                eqn = _constraint(aval, sharding, call)
                pinned[i] = self._plain(frame, eqn, str(eqn.primitive), [operands[i]], scope)[0]
        return pinned

    def _plain(
        self, frame: Frame, eqn: Any, name: str, operands: list[Operand], scope: Any
    ) -> tuple[int, ...]:
        read = [self.use(frame, o) for o in operands]
        result_avals = [v.aval for v in eqn.outvars]
        op = self.op(frame, name, read, result_avals, params=eqn.params, eqn=eqn, scope=scope)
        values = [self.values[o] for o in read if isinstance(o, int)]
        if is_repeatable(
            name,
            [v.aval for v in values],
            all(v.producer in self._chains for v in values),
            result_avals,
        ):
            length = 1 + sum(self._chains.get(v.producer, 0) for v in values)
            if length <= MAX_CHAIN:
                self._chains[op.id] = length
        return op.results

    def block(
        self,
        owner: int,
        frame: Frame,
        jaxpr: Any,
        inputs: Sequence[int],
        *,
        hoists: Hoists | None,
        index: int = 0,
        consts: Sequence[Any] = (),
        trips: int = 1,
        exact: bool = True,
    ) -> Block:
        """Build one body of a structured op; what it hoists is added once all bodies are built."""
        inner = Frame(
            owner,
            frame.count * trips,
            frame.exact and exact,
            outer=frame,
            hoists=hoists,
            index=index,
        )
        outputs = self.inline(inner, jaxpr, inputs, consts=consts)
        outputs = [self.use(inner, o) for o in outputs]
        return Block(tuple(inputs), tuple(inner.ops), tuple(outputs))

    def top(
        self, jaxpr: Any, consts: Sequence[Any], paths: Sequence[str], result_paths: Sequence[str]
    ) -> tuple[Block, list[Leaf], list[Leaf]]:
        """Build the outermost block with its arguments and results."""
        frame = Frame(None, 1, True)
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


def _shares_memory(eqn: Any) -> bool:
    """Whether a region reads or writes a mutable array of its surroundings (`jax.new_ref`).

    A reference cannot be tied: such a region is one opaque op.
    """
    return any(hasattr(a.aval, "inner_aval") for a in eqn.invars)


def _constraint(aval: Any, sharding: jax.sharding.Sharding, like: Any) -> Any:
    """The equation of a sharding constraint on an array, at the source line of another equation."""
    struct = jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
    traced = jax.make_jaxpr(lambda x: jax.lax.with_sharding_constraint(x, sharding))(struct)
    return traced.eqns[0].replace(source_info=like.source_info)
