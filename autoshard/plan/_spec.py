"""A `Spec`: which mesh axes each dimension of an array is sharded over."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.errors import SpecError
from autoshard.plan._mesh import MeshShape


@dataclass(frozen=True, slots=True)
class Spec:
    """Axes per dimension, major to minor; an empty tuple where a dimension is not sharded.

    It says the same as a `jax.sharding.PartitionSpec`, but has one form for one meaning and a
    fixed rank.

    Args:
        dims: For each dimension its axes.

    Raises:
        SpecError: An axis stands twice.
    """

    dims: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        axes = self.axes
        if len(set(axes)) != len(axes):
            raise SpecError(f"a mesh axis shards an array only once, but {self} repeats one")

    @classmethod
    def replicated(cls, rank: int) -> Spec:
        """The spec of an array that is whole on every device."""
        return cls(((),) * rank)

    @classmethod
    def from_partition_spec(cls, spec: Iterable[Any], rank: int) -> Spec:
        """Read a `jax.sharding.PartitionSpec` (None, a name or a tuple of names per dimension).

        Raises:
            SpecError: It has more entries than the array has dimensions, or an entry is
                something else.
        """
        entries = [() if e is None else (e,) if isinstance(e, str) else e for e in spec]
        for entry in entries:
            if not isinstance(entry, tuple):
                raise SpecError(f"{spec}: {entry!r} is no axis, tuple of axes or None")
        if len(entries) > rank:
            raise SpecError(f"{spec} has {len(entries)} entries, the array has {rank} dimensions")
        return cls(tuple(entries) + ((),) * (rank - len(entries)))

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes in use, by dimension."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.dims)

    @property
    def is_replicated(self) -> bool:
        """Whether no axis is used."""
        return not self.axes

    def keep(self, axes: Container[str]) -> Spec:
        """The part of the spec that uses the given axes."""
        return Spec(tuple(tuple(a for a in dim if a in axes) for dim in self.dims))

    def without(self, axes: Container[str]) -> Spec:
        """The part of the spec that does not use the given axes."""
        return Spec(tuple(tuple(a for a in dim if a not in axes) for dim in self.dims))

    def partition_spec(self) -> Any:
        """The equivalent `jax.sharding.PartitionSpec`, without trailing Nones."""
        from jax.sharding import PartitionSpec

        entries = [None if not d else d[0] if len(d) == 1 else d for d in self.dims]
        while entries and entries[-1] is None:
            entries.pop()
        return PartitionSpec(*entries)

    def check(self, shape: Sequence[int], mesh: MeshShape, what: str) -> None:
        """Compare with a shape and a mesh.

        Args:
            shape: Global shape.
            mesh: The mesh whose axes it names.
            what: Whose spec it is, for the error.

        Raises:
            SpecError: Rank, axis names or divisibility do not fit.
        """
        if len(shape) != self.rank:
            raise SpecError(f"{what}: {self} has rank {self.rank}, the shape is {tuple(shape)}")
        for d, (axes, size) in enumerate(zip(self.dims, shape, strict=True)):
            for axis in axes:
                if axis not in mesh.axes:
                    raise SpecError(
                        f"{what}: {self} names the axis {axis!r}; "
                        f"the mesh has {', '.join(mesh.names)}"
                    )
            if size % mesh.size_of(axes):
                raise SpecError(
                    f"{what}: dimension {d} of size {size} is not divisible by "
                    f"{'×'.join(axes)} = {mesh.size_of(axes)}"
                )

    def divides(self, shape: Sequence[int], mesh: MeshShape) -> bool:
        """Whether it cuts an array of this shape into parts of equal size."""
        return all(
            size % mesh.size_of(axes) == 0 for size, axes in zip(shape, self.dims, strict=True)
        )

    def shard_shape(self, shape: Sequence[int], mesh: MeshShape) -> tuple[int, ...]:
        """Shape of the part that one device holds."""
        return tuple(
            size // mesh.size_of(axes) for size, axes in zip(shape, self.dims, strict=True)
        )

    def shards(self, mesh: MeshShape) -> int:
        """Into how many different parts the array is cut."""
        return math.prod(mesh.axes[a] for a in self.axes)

    def __str__(self) -> str:
        inner = ", ".join(
            "-" if not d else d[0] if len(d) == 1 else f"({','.join(d)})" for d in self.dims
        )
        return f"P({inner})"
