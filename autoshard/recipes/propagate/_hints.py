"""What is given: shardings of some values, each dimension open or closed, with priorities."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from autoshard.errors import SpecError
from autoshard.plan import MeshShape, Spec

Key = int | tuple[str, int]
"""An array: a value id, or ``("result", op id)`` for what the program returns there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DimHint:
    """The given sharding of one dimension.

    Args:
        axes: Axes, major to minor.
        open: Whether propagation may add axes behind them. A closed dimension never changes.
        priority: The round in which the axes start to propagate; 0 is the first.
    """

    axes: tuple[str, ...] = ()
    open: bool = False
    priority: int = 0

    def __post_init__(self) -> None:
        if self.priority < 0:
            raise SpecError(f"the priority of {self} is negative; the first round is 0")

    def __str__(self) -> str:
        inner = ", ".join((*self.axes, "?") if self.open else self.axes)
        return f"{{{inner}}}" + (f"p{self.priority}" if self.priority else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """The given sharding of one array.

    Args:
        dims: One hint per dimension.
        replicated: Axes that may never shard the array.
        source: What gave it, in words, for reasons and errors.

    Raises:
        SpecError: An axis stands twice, or is both used and replicated.
    """

    dims: tuple[DimHint, ...]
    replicated: frozenset[str] = frozenset()
    source: str = "given"

    def __post_init__(self) -> None:
        both = self.replicated & set(self.spec.axes)
        if both:
            raise SpecError(f"{self} uses the axes {sorted(both)} and wants them replicated")

    @classmethod
    def of(cls, spec: Spec, open_dims: Container[int] = (), source: str = "given") -> Hint:
        """A hint from a spec whose dimensions are closed, but for some."""
        dims = (DimHint(axes=axes, open=d in open_dims) for d, axes in enumerate(spec.dims))
        return cls(dims=tuple(dims), source=source)

    @property
    def spec(self) -> Spec:
        """The axes alone."""
        return Spec(tuple(dim.axes for dim in self.dims))

    def keep(self, axes: Container[str]) -> Hint:
        """The part that speaks of some axes."""
        dims = (
            DimHint(
                axes=tuple(a for a in dim.axes if a in axes), open=dim.open, priority=dim.priority
            )
            for dim in self.dims
        )
        return Hint(dims=tuple(dims), replicated=self.replicated, source=self.source)

    def check(self, shape: Sequence[int], mesh: MeshShape) -> None:
        """Compare with a shape and a mesh.

        Raises:
            SpecError: Rank, axis names or divisibility do not fit.
        """
        self.spec.check(shape, mesh, self.source)
        for axis in sorted(self.replicated):
            if axis not in mesh.axes:
                raise SpecError(
                    f"{self.source}: {self} replicates the axis {axis!r}; "
                    f"the mesh has {', '.join(mesh.names)}"
                )

    def __str__(self) -> str:
        text = f"[{', '.join(map(str, self.dims))}]"
        return text + (f" replicated={sorted(self.replicated)}" if self.replicated else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """All that is given of a program.

    Args:
        values: Value id → hint.
        results: Op id of a ``result`` op → hint of the array that the program returns there.
        groups: Sets of arrays of one shape that get one sharding.
    """

    values: Mapping[int, Hint] = field(default_factory=dict)
    results: Mapping[int, Hint] = field(default_factory=dict)
    groups: Sequence[Sequence[Key]] = ()
