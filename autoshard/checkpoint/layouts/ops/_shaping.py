"""Ops on one array that move its elements or leave some out, and change none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.checkpoint.layouts._boxes import ReshapePiece, replaced, reshape_pieces
from autoshard.checkpoint.layouts._lazy import LazyArray, Piece
from autoshard.checkpoint.layouts._op import Loss, Op, OpError, axis, require_count, shown
from autoshard.errors import LayoutDataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose(Op):
    """Dimensions in another order.

    Args:
        order: Which dimension of the input each one of the result is, as in `numpy.transpose`.
            None turns them all around.
    """

    order: tuple[int, ...] | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array with its dimensions in order."""
        require_count(inputs, 1)
        shape = inputs[0].shape
        order = self._order(len(shape))
        return (replace(inputs[0], shape=tuple(shape[dim] for dim in order), block=None),)

    def _order(self, rank: int) -> tuple[int, ...]:
        order = tuple(range(rank))[::-1] if self.order is None else self.order
        if sorted(order) != list(range(rank)):
            raise OpError(f"order {list(order)} is no permutation of {rank} dimensions")
        return order

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the piece before its dimensions move."""
        del position
        order = self._order(len(index))
        before = [slice(0, 0)] * len(order)
        for dim, part in zip(order, index, strict=True):
            before[dim] = part
        return inputs[0].read(tuple(before)).transpose(order)

    def inverse(self) -> "Transpose":
        """Back into the first order."""
        if self.order is None:
            return self
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return Transpose(order=tuple(back))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unflatten(Op):
    """One dimension to several, the last moving fastest.

    Args:
        dim: The dimension.
        sizes: Sizes of the new ones.
    """

    dim: int
    sizes: tuple[int, ...]

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array with more dimensions."""
        require_count(inputs, 1)
        shape = inputs[0].shape
        dim = axis(self.dim, len(shape))
        if math.prod(self.sizes) != shape[dim]:
            raise OpError(
                f"dimension {self.dim} of size {shape[dim]} does not divide into "
                f"{' × '.join(map(str, self.sizes))}"
            )
        return (
            replace(inputs[0], shape=(*shape[:dim], *self.sizes, *shape[dim + 1 :]), block=None),
        )

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the runs of the piece."""
        del position
        before = inputs[0].shape
        dim = axis(self.dim, len(before))
        return _reshaped(inputs[0], (*before[:dim], *self.sizes, *before[dim + 1 :]), index)

    def inverse(self) -> "Flatten":
        """One dimension again."""
        # A negative dimension counts from the back before; after, more lie behind its first.
        dim = self.dim if self.dim >= 0 else self.dim - len(self.sizes) + 1
        return Flatten(dim=dim, sizes=self.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Op):
    """Several neighbouring dimensions to one: the inverse of `Unflatten`.

    Args:
        dim: The first of them.
        sizes: Their sizes.
    """

    dim: int
    sizes: tuple[int, ...]

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array with fewer dimensions."""
        require_count(inputs, 1)
        shape = inputs[0].shape
        dim = axis(self.dim, len(shape) + (not self.sizes))
        if shape[dim : dim + len(self.sizes)] != self.sizes:
            raise OpError(
                f"expects sizes {list(self.sizes)} from dimension {self.dim} on, got "
                f"{shown(inputs[0])}"
            )
        return (replace(inputs[0], shape=self._after(shape), block=None),)

    def _after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        dim = axis(self.dim, len(shape) + (not self.sizes))
        return (*shape[:dim], math.prod(self.sizes), *shape[dim + len(self.sizes) :])

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the runs of the piece."""
        del position
        return _reshaped(inputs[0], self._after(inputs[0].shape), index)

    def inverse(self) -> Unflatten:
        """Several dimensions again."""
        dim = self.dim if self.dim >= 0 else self.dim + len(self.sizes) - 1
        return Unflatten(dim=dim, sizes=self.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary(Op):
    """The two orders of what a rotary embedding turns together: neighbours, or halves apart.

    Interleaved, dimension 2i turns with 2i+1 (Meta's files); in halves, i turns with i + size/2
    (Hugging Face, and this package's models).

    Args:
        dim: The dimension of size `head_size`.
        to: The order of the result.
    """

    dim: int
    to: Literal["halves", "interleaved"]

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array, reordered."""
        require_count(inputs, 1)
        size = inputs[0].shape[axis(self.dim, len(inputs[0].shape))]
        if size % 2:
            raise OpError(f"turns pairs, but dimension {self.dim} has odd size {size}")
        return (replace(inputs[0], block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the span of dimensions that the piece comes from, at most the whole head."""
        del position
        dim = axis(self.dim, len(index))
        size = inputs[0].shape[dim]
        half = np.arange(size // 2)
        if self.to == "halves":
            order = np.concatenate([2 * half, 2 * half + 1])
        else:
            order = np.stack([half, half + size // 2], axis=1).reshape(-1)
        chosen = order[index[dim]]
        low, high = int(chosen.min()), int(chosen.max()) + 1
        return inputs[0].read(replaced(index, dim, slice(low, high))).take(chosen - low, axis=dim)

    def inverse(self) -> "Rotary":
        """The other order."""
        return Rotary(dim=self.dim, to="interleaved" if self.to == "halves" else "halves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip(Op):
    """A dimension without the padding at its end.

    Args:
        dim: The dimension.
        size: Its size without padding.
        padded: Its size with padding.
        check: Whether the padding has to be zero, bit by bit; it is read along with the last
            elements before it.
    """

    dim: int
    size: int
    padded: int
    check: Literal["zero", "none"] = "zero"

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array without padding."""
        require_count(inputs, 1)
        dim = axis(self.dim, len(inputs[0].shape))
        if not 0 <= self.size <= self.padded:
            raise OpError(f"cannot leave {self.size} of {self.padded}")
        if inputs[0].shape[dim] != self.padded:
            raise OpError(
                f"expects size {self.padded} along dimension {self.dim} ({self.size} and padding), "
                f"got {shown(inputs[0])}"
            )
        shape = (*inputs[0].shape[:dim], self.size, *inputs[0].shape[dim + 1 :])
        return (replace(inputs[0], shape=shape, block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the piece, and behind its last row the padding if that is to be checked."""
        del position
        dim = axis(self.dim, len(index))
        if self.check == "zero" and index[dim].stop == self.size < self.padded:
            padding = inputs[0].read(replaced(index, dim, slice(self.size, self.padded)))
            if np.ascontiguousarray(padding).reshape(-1).view(np.uint8).any():
                raise LayoutDataError(
                    [inputs[0].origins()[-1]],
                    f"the padding, from {self.size} to {self.padded} along dimension {self.dim}, "
                    "is not zero",
                    "check: none to drop it all the same",
                )
        return inputs[0].read(index)

    def inverse(self) -> "Pad":
        """With zeros behind it."""
        return Pad(dim=self.dim, size=self.size, padded=self.padded, check=self.check)

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """Unchecked padding."""
        if self.check == "none" and self.padded > self.size:
            return Loss(f"{self.padded - self.size} rows of padding, unchecked")
        return None

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """The padding."""
        dim = axis(self.dim, len(inputs[0].shape))
        rest = inputs[0].shape[:dim] + inputs[0].shape[dim + 1 :]
        return math.prod(rest) * (self.padded - self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Op):
    """A dimension with zeros at its end: the inverse of `Strip`.

    Args:
        dim: The dimension.
        size: Its size without padding.
        padded: Its size with padding.
        check: As in `Strip`.
    """

    dim: int
    size: int
    padded: int
    check: Literal["zero", "none"] = "zero"

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array with padding."""
        require_count(inputs, 1)
        dim = axis(self.dim, len(inputs[0].shape))
        if inputs[0].shape[dim] != self.size:
            raise OpError(
                f"expects size {self.size} along dimension {self.dim}, got {shown(inputs[0])}"
            )
        if self.padded < self.size:
            raise OpError(f"cannot pad {self.size} to {self.padded}")
        shape = (*inputs[0].shape[:dim], self.padded, *inputs[0].shape[dim + 1 :])
        return (replace(inputs[0], shape=shape, block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads what is there and leaves zeros behind it."""
        del position
        dim = axis(self.dim, len(index))
        part = index[dim]
        if part.stop <= self.size:
            return inputs[0].read(index)
        out = np.zeros(index_shape(index), inputs[0].info.dtype)
        if part.start < self.size:
            here = (slice(None),) * dim + (slice(0, self.size - part.start),)
            out[here] = inputs[0].read(replaced(index, dim, slice(part.start, self.size)))
        return out

    def inverse(self) -> Strip:
        """Without them."""
        return Strip(dim=self.dim, size=self.size, padded=self.padded, check=self.check)

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """It adds the padding."""
        dim = axis(self.dim, len(inputs[0].shape))
        rest = inputs[0].shape[:dim] + inputs[0].shape[dim + 1 :]
        return -math.prod(rest) * (self.padded - self.size)


def _reshaped(array: LazyArray, shape: tuple[int, ...], index: Index) -> Piece:
    pieces = reshape_pieces(array.shape, shape, index)
    if len(pieces) == 1:
        return _collected(array, pieces[0]).reshape(index_shape(index))
    out = np.empty(index_shape(index), array.info.dtype)
    for piece in pieces:
        out[piece.target] = _collected(array, piece).reshape(index_shape(piece.target))
    return out


def _collected(array: LazyArray, piece: ReshapePiece) -> Piece:
    if len(piece.parts) == 1:
        return array.read(piece.parts[0][0])
    out = np.empty(piece.buffer_shape, array.info.dtype)
    for box, place in piece.parts:
        out[place] = array.read(box).reshape(index_shape(place))
    return out
