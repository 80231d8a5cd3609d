"""The seam between checkpoint formats: where tensors come from, and where they go.

A converter reads from any `TensorSource` and writes to any `TensorSink`, piece by piece, so that no
tensor has to fit into memory. Both name tensors by *paths*: parts joined by ``/``, in which ``/``
and ``%`` of a part are written ``%2F`` and ``%25`` (`join_path`, `split_path`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

Index = tuple[slice, ...]
"""One slice per dimension, with a start and a stop inside the shape and no step."""


class Role(enum.StrEnum):
    """What a tensor is to a training run."""

    PARAMETER = "parameter"
    OPTIMIZER = "optimizer"
    STEP = "step"
    RNG = "rng"
    DATA = "data"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What is known of a tensor without reading it.

    Args:
        shape: Its shape.
        dtype: Its element type; those of ml_dtypes included (``np.dtype(ml_dtypes.bfloat16)``).
        block: The shape in which it is read or written best, its rank that of ``shape``; None
            where all are equal. Blocks start at multiples of this shape.
        role: What it is to the run.
        attributes: What else its format says of it, as JSON values, such as ``weak_type``,
            ``prng_impl`` or ``logical_axes``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    block: tuple[int, ...] | None = None
    role: Role = Role.OTHER
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.block is not None and len(self.block) != len(self.shape):
            raise ValueError(f"block {self.block} of a tensor of shape {self.shape}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor in memory."""
        return self.size * self.dtype.itemsize


@runtime_checkable
class TensorSource(Protocol):
    """A checkpoint to read from."""

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors by path, in the order in which reading them is cheapest."""
        ...

    def values(self) -> Mapping[str, Any]:
        """Leaves that are no tensors (None, strings, integers of any size) by path."""
        ...

    def metadata(self) -> Mapping[str, Any]:
        """What the checkpoint says of itself, as JSON values (step, mesh, plan …)."""
        ...

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """One piece of a tensor.

        It reads no more than the blocks that the piece touches, keeps nothing afterwards, and may
        be called from several threads.

        Args:
            name: Path of the tensor.
            index: Which piece.

        Returns:
            The piece, contiguous and in memory of its own.

        Raises:
            CheckpointError: The file is damaged there; the text names tensor, place and file.
        """
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


@runtime_checkable
class TensorSink(Protocol):
    """A checkpoint to write to. Nothing is visible at its place before `commit`."""

    def declare(self, name: str, info: TensorInfo) -> tuple[int, ...]:
        """Announce a tensor, before its first piece.

        Args:
            name: Its path.
            info: What it is. ``info.block`` is a wish.

        Returns:
            The block in which it is written best: what comes in whole blocks goes to disk at
            once; what does not is kept in memory until its block is whole.
        """
        ...

    def write(self, name: str, index: Index, array: np.ndarray[Any, Any]) -> None:
        """Write one piece. Every element is written exactly once, in any order, by any thread."""
        ...

    def put_value(self, name: str, value: Any) -> None:
        """Store a leaf that is no tensor."""
        ...

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Add to what the checkpoint says of itself."""
        ...

    def commit(self) -> None:
        """Make it durable and visible, all at once.

        Raises:
            CheckpointError: A declared tensor is not written in full, or the place is taken.
        """
        ...

    def abort(self) -> None:
        """Remove what was written. Nothing becomes visible. Harmless after `commit`."""
        ...

    def __enter__(self) -> Self:
        """Enter a block that aborts unless it commits."""
        ...

    def __exit__(self, *_: object) -> None:
        """Abort unless committed."""
        ...


def join_path(parts: Sequence[str]) -> str:
    """Parts to a path.

    >>> join_path(["opt", "a/b", "0"])
    'opt/a%2Fb/0'
    """
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def split_path(path: str) -> tuple[str, ...]:
    """A path to its parts.

    >>> split_path("opt/a%2Fb/0")
    ('opt', 'a/b', '0')
    """
    parts = path.split("/")
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in parts)


def whole(shape: Sequence[int]) -> Index:
    """The index of everything."""
    return tuple(slice(0, size) for size in shape)


def index_shape(index: Index) -> tuple[int, ...]:
    """The shape of a piece."""
    return tuple(part.stop - part.start for part in index)
