"""Ops between several arrays and one that stands for all of them: copies, sums, means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo
from autoshard.checkpoint.layouts._lazy import LazyArray, Piece
from autoshard.checkpoint.layouts._op import Loss, Op, OpError, require_alike, require_count
from autoshard.errors import LayoutDataError

Check = Literal["bitwise", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Same(Op):
    """Copies of an array to that array: replicas, tied weights.

    Args:
        count: How many copies.
        check: Whether pieces are compared, bit by bit, while they are read.
    """

    count: int
    check: Check = "bitwise"

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """One of them."""
        require_count(inputs, self.count)
        require_alike(inputs)
        return (inputs[0],)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads all copies, two at a time, unless nothing is to be checked."""
        del position
        first = inputs[0].read(index)
        if self.check == "bitwise":
            for other in inputs[1:]:
                _require_equal(inputs[0], first, other, other.read(index), index)
        return first

    def inverse(self) -> "Copies":
        """Copies it again."""
        return Copies(count=self.count, check=self.check)

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """Only unchecked copies can differ."""
        if self.check == "none" and len(inputs) > 1:
            return Loss(f"{len(inputs) - 1} unchecked copies")
        return None

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """All but one."""
        return sum(info.size for info in inputs[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies(Op):
    """An array to copies of it: the inverse of `Same`.

    Args:
        count: How many.
        check: As in `Same`.
    """

    count: int
    check: Check = "bitwise"

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The same, several times."""
        require_count(inputs, 1)
        return (inputs[0],) * self.count

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads it."""
        return inputs[0].read(index)

    def inverse(self) -> Same:
        """One of them."""
        return Same(count=self.count, check=self.check)

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """It adds all but one."""
        return -(self.count - 1) * inputs[0].size


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Op):
    """Partial results to their sum, or different copies to their mean.

    Computed in 64 bits in the order of the inputs, then rounded once.

    Args:
        kind: Which.
        count: How many arrays.
    """

    kind: Literal["sum", "mean"]
    count: int

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """One array."""
        require_count(inputs, self.count)
        require_alike(inputs)
        if self.kind == "mean" and _is_integer(inputs[0].dtype):
            raise OpError(f"means of {inputs[0].dtype.name} would be rounded; use partial")
        return (inputs[0],)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads all of them."""
        del position
        first = inputs[0].read(index)
        if len(inputs) == 1:
            return first
        wide = {"c": np.complex128, "b": np.int64, "i": np.int64, "u": np.uint64}
        total = first.astype(wide.get(first.dtype.kind, np.float64))
        equal = np.ones(first.shape, np.bool_)
        for other in inputs[1:]:
            piece = other.read(index)
            total += piece.astype(total.dtype)
            equal &= piece == first
        if self.kind == "mean":
            # The mean of equal numbers is that number, whatever the sum was rounded to.
            return np.where(equal, first, (total / len(inputs)).astype(first.dtype))
        if _is_integer(first.dtype):
            _require_fits(total, first.dtype, inputs)
        return total.astype(first.dtype)

    def inverse(self) -> "Spread":
        """Arrays with this sum or mean."""
        return Spread(kind=self.kind, count=self.count)

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """The terms."""
        return Loss(f"the terms of a {self.kind}") if len(inputs) > 1 else None

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """All but one."""
        return sum(info.size for info in inputs[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread(Op):
    """An array to several with this sum or mean: itself and zeros, or copies.

    Args:
        kind: Which.
        count: How many arrays.
    """

    kind: Literal["sum", "mean"]
    count: int

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The same, several times."""
        require_count(inputs, 1)
        return (inputs[0],) * self.count

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads it for the first of a sum, and for each of a mean."""
        if self.kind == "mean" or position == 0:
            return inputs[0].read(index)
        shape = tuple(part.stop - part.start for part in index)
        zeros = np.zeros(shape, inputs[0].info.dtype)
        # -0.0 is what leaves every float, 0.0 and -0.0 included, as it is when added.
        return zeros if _is_integer(zeros.dtype) else -zeros

    def inverse(self) -> Reduce:
        """Their sum or mean."""
        return Reduce(kind=self.kind, count=self.count)

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """It adds all but one."""
        return -(self.count - 1) * inputs[0].size


def _require_fits(total: Piece, dtype: np.dtype[Any], inputs: Sequence[LazyArray]) -> None:
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if total.size and not limits[0] <= total.min() <= total.max() <= limits[1]:
        raise LayoutDataError(
            [array.origins()[0] for array in inputs],
            f"their sum does not fit into {dtype.name}",
            "{cast: {from: …, to: int64}} before the sum",
        )


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iub"


def _require_equal(first: LazyArray, a: Piece, other: LazyArray, b: Piece, index: Index) -> None:
    """Compares bits, for NaN differs from itself and -0.0 equals 0.0."""
    left, right = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    if np.array_equal(left, right):
        return
    width = a.dtype.itemsize
    at = int(np.flatnonzero(left != right)[0]) // width
    inside = np.unravel_index(at, a.shape)
    place = [int(i) + part.start for i, part in zip(inside, index, strict=True)]
    raise LayoutDataError(
        [first.origins()[0], other.origins()[0]],
        f"they are to be copies of each other, but differ at {place}: {a[inside]} and {b[inside]}",
        "average: {…} where replicas may drift apart, or check: none to trust the first",
    )
