"""One pin: a `PartitionSpec` that fits its array and the mesh, or an error that says why not."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from autoshard.errors import PinAxisError, PinFormError, PinRankError, PinSizeError
from autoshard.plan import MeshShape, Spec, human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The spec that a user wants of an array.

    Args:
        spec: The spec.
        open_dims: Dimensions to which a strategy may add axes. The others hold as they are.
        source: What says so, in words.
        inherited: Whether it comes from a plan of the same state, not from the user.
    """

    spec: Spec
    open_dims: frozenset[int] = frozenset()
    source: str
    inherited: bool = False

    @property
    def why(self) -> str:
        """The reason for the spec."""
        return f"as in {self.source}" if self.inherited else f"pinned by {self.source}"

    @property
    def text(self) -> str:
        """The spec, with a question mark where it is open."""
        dims = (
            "?" if d in self.open_dims else str(Spec((axes,)))[2:-1]
            for d, axes in enumerate(self.spec.dims)
        )
        return f"P({', '.join(dims)})"

    def agrees(self, spec: Spec) -> bool:
        """Whether a spec is one of those that the pin allows."""
        return all(
            d in self.open_dims or mine == theirs
            for d, (mine, theirs) in enumerate(zip(self.spec.dims, spec.dims, strict=True))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The array that a pin is for.

    Args:
        path: Its path, or what else names it.
        shape: Global shape.
        nbytes: Bytes of the whole array.
    """

    path: str
    shape: tuple[int, ...]
    nbytes: int


def make_pin(
    value: object, target: Target, mesh: MeshShape, source: str, unconstrained: Container[int] = ()
) -> Pin:
    """Check what a user wrote.

    Args:
        value: A `jax.sharding.PartitionSpec` or a `Spec`. ``PartitionSpec.UNCONSTRAINED`` leaves
            a dimension open; None and dimensions that are not written are whole.
        target: The array.
        mesh: The mesh.
        source: What says so, for reasons and errors.
        unconstrained: Further dimensions that are open.

    Returns:
        The pin.

    Raises:
        PinError: It is no spec, or does not fit the array or the mesh.
    """
    entries = _entries(value, source)
    rank = len(target.shape)
    text = _text(entries)
    if len(entries) > rank:
        raise PinRankError(source, target.path, text, len(entries), target.shape)
    entries += ((),) * (rank - len(entries))
    dims = tuple(() if entry is None else entry for entry in entries)
    _check_axes(dims, target, mesh, source, text)
    spec = Spec(dims)
    _check_sizes(spec, target, mesh, source)
    open_dims = {d for d, entry in enumerate(entries) if entry is None or d in unconstrained}
    return Pin(spec=spec, open_dims=frozenset(open_dims), source=source)


_Entry = tuple[str, ...] | None
"""The axes of a dimension; None where it is open."""


def _entries(value: object, source: str) -> tuple[_Entry, ...]:
    if isinstance(value, Spec):
        return value.dims
    if not isinstance(value, PartitionSpec):
        raise PinFormError(source, value, f"is a {type(value).__name__}, not a PartitionSpec")
    partial = sorted({*getattr(value, "unreduced", ()), *getattr(value, "reduced", ())})
    if partial:
        problem = "are axes of partial sums (unreduced), which no array is stored in"
        raise PinFormError(source, partial, problem)
    return tuple(_entry(entry, value, source) for entry in value)


def _entry(entry: Any, value: object, source: str) -> _Entry:
    if entry is PartitionSpec.UNCONSTRAINED:
        return None
    if entry is None:
        return ()
    axes = (entry,) if isinstance(entry, str) else entry
    if not isinstance(axes, tuple) or not all(isinstance(axis, str) for axis in axes):
        raise PinFormError(source, value, f"has the entry {entry!r}, which names no axes")
    return axes


def _text(entries: Sequence[_Entry]) -> str:
    names = [
        "?" if e is None else "-" if not e else e[0] if len(e) == 1 else f"({','.join(e)})"
        for e in entries
    ]
    return f"P({', '.join(names)})"


def _check_axes(
    dims: Sequence[tuple[str, ...]], target: Target, mesh: MeshShape, source: str, text: str
) -> None:
    seen: set[str] = set()
    for axes in dims:
        for axis in axes:
            if axis not in mesh.axes:
                problem = f"names the axis {axis!r}, which the mesh does not have"
            elif axis in seen:
                problem = f"names the axis {axis!r} twice, and an axis cuts an array only once"
            else:
                seen.add(axis)
                continue
            raise PinAxisError(
                source, target.path, spec=text, axis=axis, mesh=mesh.text, problem=problem
            )


def _check_sizes(spec: Spec, target: Target, mesh: MeshShape, source: str) -> None:
    for d, (axes, size) in enumerate(zip(spec.dims, target.shape, strict=True)):
        n = mesh.size_of(axes)
        if size % n == 0:
            continue
        dropped = Spec(tuple(() if i == d else dim for i, dim in enumerate(spec.dims)))
        others: list[str] = []
        for other in range(len(target.shape)):
            if other != d and not spec.dims[other]:
                dims = list(dropped.dims)
                dims[other] = axes
                moved = Spec(tuple(dims))
                if target.shape[other] and moved.divides(target.shape, mesh):
                    others.append(f"{moved} (of size {target.shape[other]})")
        raise PinSizeError(
            source,
            target.path,
            spec=str(spec),
            dim=d,
            size=size,
            axes="×".join(axes),
            n=n,
            nbytes=human_bytes(target.nbytes),
            others=others,
            dropped=str(dropped),
            kept=human_bytes(target.nbytes / mesh.size_of(dropped.axes)),
        )
