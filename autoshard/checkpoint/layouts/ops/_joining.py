"""Ops between several arrays and one that holds them side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.checkpoint.layouts._boxes import replaced
from autoshard.checkpoint.layouts._lazy import LazyArray, Piece
from autoshard.checkpoint.layouts._op import (
    Op,
    OpError,
    axis,
    require_alike,
    require_count,
    shown,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Op):
    """Arrays to one, end to end along a dimension: shards, the parts of a fused projection.

    Args:
        dim: The dimension; negative counts from the back.
        widths: Size of each array along it, or None where all are equal.
        count: How many arrays, where `widths` is None.
    """

    dim: int
    widths: tuple[int, ...] | None = None
    count: int | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """One array."""
        require_count(inputs, len(self.widths) if self.widths else (self.count or len(inputs)))
        rank = len(inputs[0].shape) if inputs else 0
        dim = axis(self.dim, rank)
        require_alike(inputs, but=dim)
        widths = tuple(info.shape[dim] for info in inputs)
        if self.widths is None and len(set(widths)) > 1:
            raise OpError(
                f"joins arrays of widths {list(widths)} along dimension {dim}; uneven widths have "
                f"to be written: widths: {list(widths)}"
            )
        if self.widths is not None and widths != self.widths:
            raise OpError(
                f"expects widths {list(self.widths)} along dimension {dim}, got {list(widths)}"
            )
        shape = (*inputs[0].shape[:dim], sum(widths), *inputs[0].shape[dim + 1 :])
        return (replace(inputs[0], shape=shape, block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads from the arrays that the piece crosses."""
        del position
        dim = axis(self.dim, len(index))
        wanted = index[dim]
        out: Piece | None = None
        start = 0
        for array in inputs:
            stop = start + array.shape[dim]
            low, high = max(start, wanted.start), min(stop, wanted.stop)
            if low < high:
                part = array.read(replaced(index, dim, slice(low - start, high - start)))
                if (low, high) == (wanted.start, wanted.stop):
                    return part
                if out is None:
                    out = np.empty(index_shape(index), part.dtype)
                out[(slice(None),) * dim + (slice(low - wanted.start, high - wanted.start),)] = part
            start = stop
        assert out is not None, "pieces lie inside the array"
        return out

    def inverse(self) -> "Split":
        """Cuts it again."""
        return Split(dim=self.dim, widths=self.widths, count=self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Op):
    """An array cut along a dimension: the inverse of `Concat`.

    Args:
        dim: The dimension; negative counts from the back.
        widths: Size of each part along it, or None where all are equal.
        count: How many parts, where `widths` is None.
    """

    dim: int
    widths: tuple[int, ...] | None = None
    count: int | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The parts."""
        require_count(inputs, 1)
        (info,) = inputs
        dim = axis(self.dim, len(info.shape))
        return tuple(
            replace(info, shape=(*info.shape[:dim], width, *info.shape[dim + 1 :]), block=None)
            for width in self._widths(info.shape[dim])
        )

    def _widths(self, size: int) -> tuple[int, ...]:
        if self.widths is not None:
            if sum(self.widths) != size:
                raise OpError(
                    f"widths {list(self.widths)} add up to {sum(self.widths)}, but dimension "
                    f"{self.dim} has size {size}"
                )
            return self.widths
        if self.count is None:
            raise OpError("does not know into how many parts to cut: write count or widths")
        if size % self.count:
            raise OpError(
                f"dimension {self.dim} of size {size} does not divide into {self.count} equal "
                "parts; write widths"
            )
        return (size // self.count,) * self.count

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the piece where it lies in the whole."""
        dim = axis(self.dim, len(index))
        start = sum(self._widths(inputs[0].shape[dim])[:position])
        part = index[dim]
        return inputs[0].read(replaced(index, dim, slice(part.start + start, part.stop + start)))

    def inverse(self) -> Concat:
        """Joins them again."""
        return Concat(dim=self.dim, widths=self.widths, count=self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack(Op):
    """Arrays to one with a new dimension: layers to a scanned stack of layers.

    Args:
        dim: The new dimension, of the result.
        count: How many arrays, or None for all there are.
    """

    dim: int
    count: int | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """One array of one dimension more."""
        require_count(inputs, self.count or len(inputs))
        require_alike(inputs)
        shape = inputs[0].shape
        dim = axis(self.dim, len(shape) + 1)
        return (replace(inputs[0], shape=(*shape[:dim], len(inputs), *shape[dim:]), block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads from the arrays that the piece crosses."""
        del position
        dim = axis(self.dim, len(index))
        wanted = index[dim]
        rest = (*index[:dim], *index[dim + 1 :])
        if wanted.stop - wanted.start == 1:
            return np.expand_dims(inputs[wanted.start].read(rest), dim)
        out = np.empty(index_shape(index), inputs[0].info.dtype)
        for at in range(wanted.start, wanted.stop):
            out[(slice(None),) * dim + (at - wanted.start,)] = inputs[at].read(rest)
        return out

    def inverse(self) -> "Unstack":
        """Takes them apart again."""
        return Unstack(dim=self.dim, count=self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstack(Op):
    """An array to the arrays along one of its dimensions: the inverse of `Stack`.

    Args:
        dim: The dimension, of the input.
        count: Its size, or None for whatever it is.
    """

    dim: int
    count: int | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """Arrays of one dimension fewer."""
        require_count(inputs, 1)
        shape = inputs[0].shape
        dim = axis(self.dim, len(shape))
        if self.count not in (None, shape[dim]):
            raise OpError(f"expects {self.count} arrays, but {shown(inputs[0])} has {shape[dim]}")
        if shape[dim] == 0:
            raise OpError(f"finds nothing in {shown(inputs[0])}: dimension {dim} is empty")
        part = replace(inputs[0], shape=(*shape[:dim], *shape[dim + 1 :]), block=None)
        return (part,) * shape[dim]

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the piece where it lies in the whole."""
        dim = axis(self.dim, len(index) + 1)
        whole = (*index[:dim], slice(position, position + 1), *index[dim:])
        return inputs[0].read(whole).squeeze(dim)

    def inverse(self) -> Stack:
        """Stacks them again."""
        return Stack(dim=self.dim, count=self.count)
