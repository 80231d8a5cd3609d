"""Emitting a program again, with the plan's constraints in it.

The program is evaluated op by op under a JAX trace. Every op is bound exactly as it was traced,
under its own source line and name stack; only planned operands and results pass through
`jax.lax.with_sharding_constraint`. Bodies of loops, branches and rematerialized calls are traced
anew, so that constraints stand inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from autoshard._compat import equation_context
from autoshard.lowering._backend import Backend, Term, bind
from autoshard.plan import ConstraintKey, Plan, Spec
from autoshard.tracing import Block, Literal, Op, Program


@dataclass(frozen=True, slots=True)
class _Partial:
    """A value that is not there yet: the sum of partial results, to be combined by an addition."""

    terms: Sequence[Term]


_Placed = dict[tuple[int, Spec], Any]
"""Values of a block in the specs in which they were read last."""


class Emitter:
    """Evaluates a program under a plan.

    Args:
        program: The program.
        plan: Its plan.
        backend: How specs are expressed.
    """

    def __init__(self, program: Program, plan: Plan, backend: Backend) -> None:
        self.program = program
        self.constraints = plan.constraints
        self.regathers = plan.regathers
        self.reductions = plan.reductions
        self.backend = backend

    def __call__(self, *arguments: Any) -> list[Any]:
        """Evaluate the program.

        Args:
            *arguments: Flat arguments, captured arrays last.

        Returns:
            Flat results.
        """
        return self._block(self.program.body, arguments)

    def _block(self, block: Block, inputs: Sequence[Any]) -> list[Any]:
        env: dict[int, Any] = dict(zip(block.inputs, inputs, strict=True))
        placed: _Placed = {}
        for op_id in block.ops:
            op = self.program.ops[op_id]
            operands = [self._read(env, o) for o in op.operands]
            with equation_context(op.eqn, op.scope):
                if not op.structured:
                    results = self._plain(op, self._operands(op, operands, placed))
                elif op.atomic or op.primitive not in self._STRUCTURED:
                    results = self._plain(op, operands)
                else:
                    results = self._STRUCTURED[op.primitive](self, op, operands)
            env.update(zip(op.results, results, strict=True))
        return [self._read(env, o) for o in block.outputs]

    def _read(self, env: dict[int, Any], operand: int | Literal) -> Any:
        return operand.value if isinstance(operand, Literal) else env[operand]

    def _constrain(self, key: ConstraintKey, array: Any) -> Any:
        chain = self.constraints.get(key)
        return array if chain is None else self.backend.constrain(array, chain)

    def _plain(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        terms = self._terms(op, operands)
        if terms is None and op.primitive == "sharding_constraint":
            # The user's constraint is a pin: the plan says it again, for its own mesh.
            pinned = (op.id, "result", 0) in self.constraints
            results = list(operands) if pinned else bind(op, operands)
        elif terms is None:
            results = bind(op, operands)
        elif terms[0].reduction.into in (None, op.id):
            results = [self.backend.reduce(terms)]
        else:
            return [_Partial(terms)]
        return [self._constrain((op.id, "result", i), x) for i, x in enumerate(results)]

    def _terms(self, op: Op, operands: Sequence[Any]) -> Sequence[Term] | None:
        """The partial results of which the result of an op is the sum, if the plan combines it."""
        reduction = self.reductions.get(op.id)
        if reduction is not None:
            return [Term(op, operands, reduction)]
        partials = [x for x in operands if isinstance(x, _Partial)]
        return [term for partial in partials for term in partial.terms] or None

    def _operands(self, op: Op, operands: Sequence[Any], placed: _Placed) -> Sequence[Any]:
        """Bring operands into the specs in which an op reads them.

        Readers of one value in one spec share the constrained copy, until a reader that has to
        gather anew starts the next one.
        """
        ready = list(self._separate(op, operands))
        for index, operand in enumerate(op.operands):
            key: ConstraintKey = (op.id, "operand", index)
            chain = self.constraints.get(key)
            if chain is None or not isinstance(operand, int):
                continue
            shared = placed.get((operand, chain[-1]))
            if shared is None or key in self.regathers:
                shared = self.backend.constrain(ready[index], chain)
                placed[operand, chain[-1]] = shared
            ready[index] = shared
        return ready

    def _separate(self, op: Op, operands: Sequence[Any]) -> Sequence[Any]:
        """Make an operand that is gathered anew a value of its own.

        The barrier ties it to the op's other operands, so that it is neither merged with an
        earlier gather nor moved before its reader can run.
        """
        if not any((op.id, "operand", i) in self.regathers for i in range(len(operands))):
            return operands
        arrays = [i for i, o in enumerate(op.operands) if isinstance(o, int)]
        held = jax.lax.optimization_barrier([operands[i] for i in arrays])
        separated = list(operands)
        for i, array in zip(arrays, held, strict=True):
            separated[i] = array
        return separated

    # Regions ----------------------------------------------------------------------------------

    def _enter(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        """Constrain the outer operands of a region as its ties want them."""
        constrained = list(operands)
        ties = [t for t in op.ties if self.program.ops[t].params["kind"] in _ENTRY_KINDS]
        order = _ENTRY_ORDER.get(op.primitive, ("argument",))
        ties.sort(key=lambda t: order.index(self.program.ops[t].params["kind"]))
        first = len(operands) - len(ties)  # what stands before them chooses a branch
        for position, tie in enumerate(ties, first):
            constrained[position] = self._constrain((tie, "operand", 0), operands[position])
        return constrained

    def _body(self, op: Op, index: int, returned: Sequence[tuple[int, int]]) -> Any:
        """Trace one body anew as a closed jaxpr.

        Args:
            op: The structured op.
            index: Which of its bodies.
            returned: For each output the tie and operand index through which it leaves.
        """
        block = op.blocks[index]

        def run(*inputs: Any) -> list[Any]:
            entered = []
            for value, array in zip(block.inputs, inputs, strict=True):
                made = self.program.values[value]
                entered.append(self._constrain((made.producer, "result", made.index), array))
            outputs = self._block(block, entered)
            if not returned:
                return outputs
            return [
                self._constrain((tie, "operand", i), x)
                for (tie, i), x in zip(returned, outputs, strict=True)
            ]

        avals = [self.program.values[v].aval for v in block.inputs]
        structs = [
            jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=bool(getattr(a, "weak_type", False)))
            for a in avals
        ]
        return jax.make_jaxpr(run)(*structs)

    def _ties(self, op: Op, kind: str) -> list[int]:
        return [t for t in op.ties if self.program.ops[t].params["kind"] == kind]

    def _scan(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        returned = [(t, 1) for t in self._ties(op, "carry")]
        returned += [(t, 0) for t in self._ties(op, "scanned output")]
        body = self._body(op, 0, returned)
        return self._bind(op, self._enter(op, operands), jaxpr=body)

    def _while(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        carry = [(t, 1) for t in self._ties(op, "carry")]
        cond, body = self._body(op, 0, ()), self._body(op, 1, carry)
        return self._bind(op, self._enter(op, operands), cond_jaxpr=cond, body_jaxpr=body)

    def _cond(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        results = self._ties(op, "result")
        branches = tuple(
            self._body(op, i, [(t, i) for t in results]) for i in range(len(op.blocks))
        )
        return self._bind(op, self._enter(op, operands), branches=branches)

    def _remat(self, op: Op, operands: Sequence[Any]) -> list[Any]:
        closed = self._body(op, 0, [(t, 0) for t in self._ties(op, "result")])
        jaxpr = closed.jaxpr.replace(
            constvars=(), invars=[*closed.jaxpr.constvars, *closed.jaxpr.invars]
        )
        changed: dict[str, Any] = {"jaxpr": jaxpr}
        if isinstance(op.params["prevent_cse"], tuple):  # one for each operand
            changed["prevent_cse"] = (False,) * len(closed.consts) + op.params["prevent_cse"]
        return self._bind(op, [*closed.consts, *self._enter(op, operands)], **changed)

    def _bind(self, op: Op, operands: Sequence[Any], **changed: Any) -> list[Any]:
        return list(op.eqn.primitive.bind(*operands, **{**op.params, **changed}))

    _STRUCTURED: ClassVar[dict[str, Callable[[Emitter, Op, Sequence[Any]], list[Any]]]] = {
        "checkpoint": _remat,
        "cond": _cond,
        "remat": _remat,
        "remat2": _remat,
        "scan": _scan,
        "while": _while,
    }
    """How each structured op is bound again. Others are bound as they were traced."""


_ENTRY_ORDER = {
    "cond": ("argument",),
    "scan": ("constant", "carry", "scanned input"),
    "while": ("constant", "carry"),
}
"""Kinds of the ties through which a region's operands enter, in the order of the operands."""
_ENTRY_KINDS = frozenset(kind for kinds in _ENTRY_ORDER.values() for kind in kinds)
