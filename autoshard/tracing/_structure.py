"""Names for the ops of a program that follow from its structure alone.

A plan on disk has to find its ops again in another process, after parameters were renamed or lines
were moved. So an op is known by what it is (primitive, params, shapes), by what flows into it and
by what becomes of its results: hashes in the manner of Merkle, taken along the data flow in both
directions and repeated until they tell no more ops apart (colour refinement, as Weisfeiler and
Leman used it for graphs). Values of scalar literals do not count: a plan outlives a change of the
learning rate. What is still equal after that is interchangeable, and is counted in program order.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoshard.tracing._params import params_text

if TYPE_CHECKING:
    from autoshard.tracing._program import Literal, Op, Program

_MAX_ROUNDS = 16
_ASSOCIATIVE = frozenset({"add", "and", "max", "min", "mul", "or"})
"""Scalars combined in the order of a tree (a global norm) are the same whatever its names are."""


@dataclass(frozen=True, slots=True)
class Signature:
    """All ops of a program that look alike.

    Args:
        count: How many there are.
        inputs: Digest of what flows into them.
    """

    count: int
    inputs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What identifies a program and its ops.

    Args:
        digest: Equal for programs of equal structure.
        ops: Op id → name, as in ``dot_general/3f0c2a9be1d4/0``: primitive, hash, and the position
            among those that nothing tells apart.
        arguments: Names of the argument leaves, in their order.
        results: Names of the result leaves, in their order.
        signatures: Text of primitive and shapes → how many ops look so.
    """

    digest: str
    ops: Mapping[int, str]
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    signatures: Mapping[str, Signature]


def find_structure(program: Program) -> Structure:
    """Name the ops of a program by its structure.

    Args:
        program: The program.

    Returns:
        Its structure; the same for the same computation in another process, whatever its arrays
        are called, wherever it is written, and in whatever order a tree is walked.
    """
    looks = [op_signature(program, op) for op in program.ops]
    graph = _Graph(program, [_hash(text) for text in looks])
    colours = graph.refine()
    seen: Counter[str] = Counter()
    names: dict[int, str] = {}
    for op, colour in zip(program.ops, colours, strict=True):
        name = f"{op.primitive}/{colour.hex()[:12]}"
        names[op.id] = f"{name}/{seen[name]}"
        seen[name] += 1
    inputs: defaultdict[str, list[bytes]] = defaultdict(list)
    for text, colour in zip(looks, graph.inputs(), strict=True):
        inputs[text].append(colour)
    return Structure(
        digest=_hash(*sorted(colours)).hex(),
        ops=names,
        arguments=tuple(names[leaf.op] for leaf in program.arguments),
        results=tuple(names[leaf.op] for leaf in program.results),
        signatures={
            text: Signature(len(found), _hash(*sorted(found)).hex()[:12])
            for text, found in inputs.items()
        },
    )


def op_signature(program: Program, op: Op) -> str:
    """Primitive, shapes and a digest of the params, as people can read it.

    Args:
        program: The program.
        op: One of its ops.

    Returns:
        Such as ``dot_general(float32[16,64], float32[64,8]) -> float32[16,8] #1f2e3d``.
    """
    operands = [_look(program, o) for o in op.operands]
    if op.structured:
        operands.sort()  # they stand in the order of a tree; the ties say what is what
    results = [_aval(program.values[r].aval) for r in op.results]
    if op.structured:
        results.sort()
    plain = op.structured and not op.atomic
    params = params_text(op.params, plain_only=plain)
    text = f"{op.primitive}({', '.join(operands)}) -> {', '.join(results) or '()'}"
    if op.count != 1:
        text += f" x{op.count}"
    if op.parent is not None:
        text += f" in {program.ops[op.parent].primitive}"
    return text + (f" #{_hash(params).hex()[:6]}" if params else "")


def _look(program: Program, operand: int | Literal) -> str:
    text = _aval(program.aval(operand))
    return text if isinstance(operand, int) else f"constant {text}"


def _aval(aval: Any) -> str:
    if not hasattr(aval, "shape"):
        return str(aval)
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def _hash(*parts: bytes | str) -> bytes:
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(4, "little"))
        found.update(data)
    return found.digest()


class _Graph:
    """The data flow of a program with a colour for each op.

    Args:
        program: The program.
        looks: What each op looks like by itself.
    """

    def __init__(self, program: Program, looks: Sequence[bytes]) -> None:
        self.program = program
        self.looks = looks
        self.roots = _chain_roots(program)
        self.parts: dict[int, list[int]] = {}
        """Root of a chain of scalars → its ops."""
        for op_id, root in self.roots.items():
            self.parts.setdefault(root, []).append(op_id)

    def refine(self) -> list[bytes]:
        """Colour the ops until no round tells more of them apart."""
        uses = [b""] * len(self.program.values)
        colours = list(self.looks)
        values = [b""] * len(self.program.values)
        classes = 0
        for _ in range(_MAX_ROUNDS):
            colours = self._forward(values, uses)
            self._backward(colours, uses)
            found = len(set(colours))
            if found == classes:
                break
            classes = found
        return colours

    def inputs(self) -> list[bytes]:
        """Colours that only what flows into an op decides."""
        size = len(self.program.values)
        return self._forward([b""] * size, [b""] * size)

    def _forward(self, values: list[bytes], uses: Sequence[bytes]) -> list[bytes]:
        """Colours from operands, in program order; a loop's way back is that of the last round."""
        colours: list[bytes] = []
        for op in self.program.ops:
            if op.id in self.roots:
                inputs = self._chain_inputs(op, values)
            elif op.structured:
                inputs = ()  # its ties have them
            else:
                inputs = (values[o] if isinstance(o, int) else b"" for o in op.operands)
            made = () if op.structured else op.results
            colour = _hash(self.looks[op.id], *inputs, b"->", *(uses[r] for r in made))
            colours.append(colour)
            for index, result in enumerate(made):
                values[result] = _hash(colour, index.to_bytes(2, "little"))
        return colours

    def _chain_inputs(self, op: Op, values: Sequence[bytes]) -> Iterable[bytes]:
        """What all ops of a chain combine, in no order; nothing for those before its end."""
        if self.roots[op.id] != op.id:
            return ()
        inside = {r for part in self.parts[op.id] for r in self.program.ops[part].results}
        return sorted(
            values[operand] if isinstance(operand, int) else b""
            for part in self.parts[op.id]
            for operand in self.program.ops[part].operands
            if not (isinstance(operand, int) and operand in inside)
        )

    def _backward(self, colours: Sequence[bytes], uses: list[bytes]) -> None:
        """Colours of values from their readers, in reverse order."""
        readers = [_hash(colours[op.id]) for op in self.program.ops]
        for op in reversed(self.program.ops):
            made = () if op.structured else op.results
            for result in made:
                uses[result] = _hash(
                    *sorted(
                        self._use(readers, consumer, index)
                        for consumer, index in self.program.consumers[result]
                    )
                )
            readers[op.id] = _hash(colours[op.id], *(uses[r] for r in made))

    def _use(self, readers: Sequence[bytes], consumer: int, index: int) -> bytes:
        root = self.roots.get(consumer)
        if root is not None:
            return readers[root]
        return _hash(readers[consumer], index.to_bytes(2, "little"))


def _chain_roots(program: Program) -> dict[int, int]:
    """Ops that combine scalars by one associative primitive → the last op of their chain."""
    roots: dict[int, int] = {}
    for op in reversed(program.ops):
        if op.primitive not in _ASSOCIATIVE or program.values[op.results[0]].shape:
            continue
        root = op.id
        readers = program.consumers[op.results[0]]
        if len(readers) == 1:
            reader = program.ops[readers[0][0]]
            if reader.primitive == op.primitive and reader.parent == op.parent:
                root = roots.get(reader.id, op.id)
        roots[op.id] = root
    return roots
