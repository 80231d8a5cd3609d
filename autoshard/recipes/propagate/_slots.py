"""The state of a propagation: one slot per array, shared by the arrays of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoshard.errors import PinConflictError, SpecError
from autoshard.plan import MeshShape, Spec
from autoshard.recipes.propagate._hints import DimHint, Hint, Hints, Key
from autoshard.tracing import Program, nbytes


class Slot:
    """The sharding of one array while it is being found.

    Args:
        shape: Global shape.
        nbytes: Bytes of the whole array.
    """

    def __init__(self, shape: tuple[int, ...], nbytes: int) -> None:
        self.shape = shape
        self.nbytes = nbytes
        self.hint: Hint | None = None
        self.dims: list[tuple[str, ...]] = [()] * len(shape)
        self.found: dict[str, tuple[Slot, int]] = {}
        """Axis → the slot that it came from and the op through which it came."""

    def take(self, hint: Hint, mesh: MeshShape) -> None:
        """Start from a hint; a second one, of another array of the group, has to agree.

        Raises:
            SpecError: The hint does not fit the shape or the mesh.
            PinConflictError: Two arrays of a group are given what cannot both hold.
        """
        hint.check(self.shape, mesh)
        self.hint = hint if self.hint is None else _both(self.hint, hint)
        self.dims = [dim.axes for dim in self.hint.dims]

    def hidden(self, priority: int) -> frozenset[int]:
        """Dimensions whose axes do not propagate yet."""
        if self.hint is None:
            return frozenset()
        return frozenset(d for d, dim in enumerate(self.hint.dims) if dim.priority > priority)

    def is_open(self, d: int) -> bool:
        """Whether a dimension may get more axes."""
        return self.hint is None or self.hint.dims[d].open

    @property
    def taken(self) -> set[str]:
        """Axes that no other dimension may get."""
        axes = {axis for dim in self.dims for axis in dim}
        return axes if self.hint is None else axes | self.hint.replicated

    @property
    def spec(self) -> Spec:
        """The axes found so far."""
        return Spec(tuple(self.dims))


def _both(one: Hint, other: Hint) -> Hint:
    """The hint that two arrays of a group obey together."""
    dims: list[DimHint] = []
    for a, b in zip(one.dims, other.dims, strict=True):
        short, long = sorted((a, b), key=lambda dim: len(dim.axes))
        grows = short.axes == long.axes or short.open
        if not grows or long.axes[: len(short.axes)] != short.axes:
            raise PinConflictError(
                "a sharding group", [(one.source, str(one)), (other.source, str(other))]
            )
        priority = min(a.priority, b.priority)
        dims.append(DimHint(axes=long.axes, open=a.open and b.open, priority=priority))
    try:
        return Hint(
            dims=tuple(dims), replicated=one.replicated | other.replicated, source=one.source
        )
    except SpecError:
        raise PinConflictError(
            "a sharding group", [(one.source, str(one)), (other.source, str(other))]
        ) from None


class Slots:
    """The slots of a program's values and results.

    Args:
        program: The program.
        mesh: The mesh.
        hints: What is given.

    Raises:
        SpecError: A hint does not fit its array, or a group joins arrays of different shapes.
        PinConflictError: Two arrays of a group are given what cannot both hold.
    """

    def __init__(self, program: Program, mesh: MeshShape, hints: Hints) -> None:
        made: dict[Key, Slot] = {}
        leader = _leaders(hints.groups)

        def slot(key: Key, aval: Any) -> Slot:
            shape = tuple(getattr(aval, "shape", ()))
            found = made.setdefault(leader.get(key, key), Slot(shape, nbytes(aval)))
            if found.shape != shape:
                raise SpecError(
                    f"a sharding group joins arrays of the shapes {found.shape} and {shape}"
                )
            return found

        self._program = program
        self.values = [slot(value.id, value.aval) for value in program.values]
        self.results = {
            leaf.op: slot(("result", leaf.op), program.aval(program.result_operand(leaf)))
            for leaf in program.results
        }
        for value, hint in hints.values.items():
            self.values[value].take(hint, mesh)
        for op_id, hint in hints.results.items():
            self.results[op_id].take(hint, mesh)

    def operands(self, op_id: int) -> list[Slot | None]:
        """The slots of an op's operands; None for literals."""
        operands = self._program.ops[op_id].operands
        return [self.values[o] if isinstance(o, int) else None for o in operands]

    def made_by(self, op_id: int) -> list[Slot]:
        """The slots of an op's results; of a ``result`` op, what the program returns there."""
        if op_id in self.results:
            return [self.results[op_id]]
        return [self.values[r] for r in self._program.ops[op_id].results]


def _leaders(groups: Sequence[Sequence[Key]]) -> dict[Key, Key]:
    """Array → the array that stands for its group; groups with a common member are one."""
    leader: dict[Key, Key] = {}

    def find(key: Key) -> Key:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for first, *others in groups:
        for other in others:
            leader[find(other)] = find(first)
    return {key: find(key) for key in leader}
