"""The Program: a traced function as flat values and ops, with regions for loops and branches.

All ops of all regions stand in one list in program order, so that analyses are plain loops; the
nesting is kept in `Block`, which only lowering has to walk. What crosses a region's border does so
through *ties*: ops that compute nothing and say that their operands and results are one variable
(the initial carry of a scan, the carry in its body, what the body returns, the scan's result).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autoshard.tracing._structure import Structure, find_structure

ARGUMENT = "argument"
RESULT = "result"
TIE = "region_tie"
"""Primitive names of the ops that stand for the border of the program and of its regions."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant operand.

    Args:
        value: The scalar or array.
        aval: Its abstract value.
    """

    value: Any
    aval: Any


@dataclass(frozen=True, slots=True)
class Value:
    """One array of the program.

    Args:
        id: Index in `Program.values`.
        aval: The JAX abstract value: shape, dtype, weak type.
        producer: Id of the op that makes it.
        index: Which of the producer's results it is.
    """

    id: int
    aval: Any
    producer: int
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Global shape."""
        return tuple(self.aval.shape)

    @property
    def dtype(self) -> Any:
        """Element type; an extended dtype for typed PRNG keys."""
        return self.aval.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array (a typed PRNG key counts as its dtype's itemsize)."""
        return nbytes(self.aval)


def nbytes(aval: Any) -> int:
    """Bytes of an array of this shape and dtype; zero for tokens."""
    if not hasattr(aval, "shape"):
        return 0
    itemsize = getattr(aval.dtype, "itemsize", None)
    return math.prod(aval.shape) * (4 if itemsize is None else int(itemsize))


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation.

    Args:
        id: Index in `Program.ops`.
        primitive: Name of the JAX primitive, or ``argument``, ``result``, ``tie``.
        operands: Value ids and literals.
        results: Value ids.
        params: The primitive's params; for a tie its leading dimensions.
        count: How often it runs in one call of the program: loop lengths multiplied.
        exact_count: False below a ``while`` whose trip count is not known.
        parent: Id of the op whose region it stands in, or None.
        blocks: Bodies of a structured op (scan, while, cond, remat, custom derivatives).
        ties: Ids of the ties between a structured op's blocks and the outside.
        atomic: A structured op that is emitted as it was traced (its body is only analysed).
        eqn: The traced equation, for emission.
        scope: Name stack of the calls that were inlined around it.
    """

    id: int
    primitive: str
    operands: tuple[int | Literal, ...]
    results: tuple[int, ...]
    params: Mapping[str, Any]
    count: int = 1
    exact_count: bool = True
    parent: int | None = None
    blocks: tuple[Block, ...] = ()
    ties: tuple[int, ...] = ()
    atomic: bool = False
    eqn: Any = None
    scope: Any = None

    @property
    def structured(self) -> bool:
        """Whether it owns regions: its ties carry the data flow, it has no rule itself."""
        return bool(self.blocks)

    @property
    def source(self) -> str:
        """``file:line (function)`` of the user's code, or the empty string."""
        from autoshard._compat import source_line

        return source_line(self.eqn) if self.eqn is not None else ""

    @property
    def name_stack(self) -> str:
        """Module path and transformations, as JAX prints it, or the empty string."""
        from autoshard._compat import name_stack_text

        return name_stack_text(self.eqn, self.scope) if self.eqn is not None else ""

    def __str__(self) -> str:
        return f"{self.primitive} (op {self.id})"


@dataclass(frozen=True, slots=True)
class Block:
    """A straight run of ops: the program's body or one body of a structured op.

    Args:
        inputs: Value ids of its parameters.
        ops: Ids of its ops in order, without the ops of nested blocks.
        outputs: What it returns.
    """

    inputs: tuple[int, ...]
    ops: tuple[int, ...]
    outputs: tuple[int | Literal, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array argument or result.

    Args:
        path: Its place in the function's arguments or results, parts joined by ``/``.
        op: Id of its ``argument`` or ``result`` op.
        captured: True for an array that the function closed over.
    """

    path: str
    op: int
    captured: bool = False


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function.

    Args:
        ops: All ops in program order; an op stands before the ops of its regions, and the ties that
            make its results stand after them (carries excepted: they are also read inside).
        values: All values.
        body: The outermost block.
        arguments: Leaves of the flattened ``(args, kwargs)``, then captured arrays.
        results: Leaves of the flattened result.
        in_tree: Tree of ``(args, kwargs)``.
        out_tree: Tree of the result.
        captured: The closed-over arrays, in the order of the captured arguments.
        name: Name of the function.
    """

    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    body: Block
    arguments: tuple[Leaf, ...]
    results: tuple[Leaf, ...]
    in_tree: Any
    out_tree: Any
    captured: tuple[Any, ...] = ()
    name: str = "function"

    @cached_property
    def consumers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each value the ``(op id, operand index)`` of its uses; ties stand for regions."""
        uses: list[list[tuple[int, int]]] = [[] for _ in self.values]
        for op in self.ops:
            if op.structured:
                continue
            for index, operand in enumerate(op.operands):
                if isinstance(operand, int):
                    uses[operand].append((op.id, index))
        return tuple(map(tuple, uses))

    @cached_property
    def structure(self) -> Structure:
        """Names for its ops that another process finds as well."""
        return find_structure(self)

    def aval(self, operand: int | Literal) -> Any:
        """Abstract value of an operand."""
        return operand.aval if isinstance(operand, Literal) else self.values[operand].aval

    def argument_value(self, leaf: Leaf) -> Value:
        """The value of an argument."""
        return self.values[self.ops[leaf.op].results[0]]

    def result_operand(self, leaf: Leaf) -> int | Literal:
        """What a result returns."""
        return self.ops[leaf.op].operands[0]

    def __str__(self) -> str:
        return _format(self)


def _format(program: Program) -> str:
    """The program as text, one op a line, bodies indented."""
    lines: list[str] = []

    def shape(aval: Any) -> str:
        if not hasattr(aval, "shape"):
            return str(aval)
        return f"{np.dtype(aval.dtype).name if _is_numpy(aval.dtype) else aval.dtype}" + str(
            list(aval.shape)
        ).replace(" ", "")

    def operand(o: int | Literal) -> str:
        return f"%{o}" if isinstance(o, int) else str(o.value)

    def block(body: Block, indent: str) -> None:
        for op_id in body.ops:
            op = program.ops[op_id]
            left = ", ".join(f"%{r}:{shape(program.values[r].aval)}" for r in op.results)
            times = f" x{op.count}" if op.count != 1 else ""
            lines.append(
                f"{indent}{left + ' = ' if left else ''}{op.primitive}"
                f"({', '.join(map(operand, op.operands))}){times}"
            )
            for inner in op.blocks:
                lines.append(f"{indent}  body({', '.join(f'%{v}' for v in inner.inputs)})")
                block(inner, indent + "    ")

    block(program.body, "")
    return "\n".join(lines)


def _is_numpy(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype)
