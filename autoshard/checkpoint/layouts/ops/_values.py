"""Ops that change elements: casts and quantisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape, whole
from autoshard.checkpoint.layouts._boxes import blocks
from autoshard.checkpoint.layouts._lazy import LazyArray, Piece
from autoshard.checkpoint.layouts._op import Loss, Op, OpError, require_count, shown

_PASS_BYTES = 4 << 20
"""How much of a tensor is in memory at once while its scales are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Op):
    """Elements of another type, rounded to nearest where that type is narrower.

    Args:
        source: Type of the input.
        to: Type of the result.
    """

    source: np.dtype[Any]
    to: np.dtype[Any]

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array in the other type."""
        require_count(inputs, 1)
        if inputs[0].dtype != self.source:
            raise OpError(f"casts from {self.source.name}, got {shown(inputs[0])}")
        if is_float(self.source) and not is_float(self.to):
            raise OpError(f"would cut off fractions: {self.source.name} to {self.to.name}")
        return (replace(inputs[0], dtype=self.to),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads and casts."""
        del position
        with np.errstate(over="ignore", invalid="ignore"):
            return inputs[0].read(index).astype(self.to)

    def inverse(self) -> "Cast":
        """Back to the first type."""
        return Cast(source=self.to, to=self.source)

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """What the narrower type cannot tell."""
        if widens(self.source, self.to):
            return None
        return Loss(f"precision, from {self.source.name} to {self.to.name}", rounds=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale(Op):
    """Elements times or over the square root of a number: the scale of attention, folded in.

    Args:
        root_of: The number.
        divide: Whether to divide by its root.
    """

    root_of: int
    divide: bool = False

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The array as it was."""
        require_count(inputs, 1)
        if not is_float(inputs[0].dtype) or self.root_of < 1:
            raise OpError(f"multiplies by the root of {self.root_of}: {shown(inputs[0])}")
        return (inputs[0],)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads, computes in float64 and rounds once."""
        del position
        piece = inputs[0].read(index)
        wide = piece.astype(np.complex128 if piece.dtype.kind == "c" else np.float64)
        root = math.sqrt(self.root_of)
        return (wide / root if self.divide else wide * root).astype(piece.dtype)

    def inverse(self) -> "Rescale":
        """The other way round."""
        return Rescale(root_of=self.root_of, divide=not self.divide)

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """Nothing where the root is a power of two, for that only moves exponents."""
        root = math.isqrt(self.root_of)
        if root * root == self.root_of and root & (root - 1) == 0:
            return None
        return Loss(f"the last bit, by the root of {self.root_of}", rounds=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantise(Op):
    """Quantised values and their scales to floats: `value × scale`, in float32, then rounded.

    Args:
        quantised: Type of the values, such as int8 or float8_e4m3fn.
        scale: Type of the scales.
        to: Type of the result.
        block: How many elements share a scale along each dimension; 0 for all of them.
        scale_shape: Shape of the scales, of as many elements as there are blocks.
    """

    quantised: np.dtype[Any]
    scale: np.dtype[Any]
    to: np.dtype[Any]
    block: tuple[int, ...]
    scale_shape: tuple[int, ...] | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """The floats."""
        require_count(inputs, 2)
        values, scales = inputs
        if values.dtype != self.quantised or scales.dtype != self.scale:
            raise OpError(
                f"expects {self.quantised.name} and {self.scale.name}, got {shown(values)} and "
                f"{shown(scales)}"
            )
        expected = self.scale_shape or grid(values.shape, self.block)
        if scales.shape != expected:
            raise OpError(f"expects scales of shape {list(expected)}, got {shown(scales)}")
        _require_blocks(values.shape, self.block, expected)
        return (replace(values, dtype=self.to, block=None),)

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Reads the values, and the scales of the blocks that the piece crosses."""
        del position
        values = inputs[0].read(index).astype(np.float32)
        scales = _scales_for(inputs[1], inputs[0].shape, self.block, index)
        return (values * scales).astype(self.to)

    def inverse(self) -> "Quantise":
        """Quantised values with scales of their own."""
        return Quantise(
            quantised=self.quantised,
            scale=self.scale,
            source=self.to,
            block=self.block,
            scale_shape=self.scale_shape,
        )

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """Which scale was used is forgotten."""
        return Loss(f"the scales of {self.quantised.name} values")

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """The scales."""
        return inputs[1].size


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantise(Op):
    """Floats to quantised values and scales: the inverse of `Dequantise`, which loses precision.

    A scale is the largest magnitude in its block over the largest value of the quantised type; 1
    for a block of zeros.

    Args:
        quantised: Type of the values.
        scale: Type of the scales.
        source: Type of the input.
        block: How many elements share a scale along each dimension; 0 for all of them.
        scale_shape: Shape of the scales.
    """

    quantised: np.dtype[Any]
    scale: np.dtype[Any]
    source: np.dtype[Any]
    block: tuple[int, ...]
    scale_shape: tuple[int, ...] | None = None

    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """Values and scales."""
        require_count(inputs, 1)
        (info,) = inputs
        if info.dtype != self.source:
            raise OpError(f"quantises {self.source.name}, got {shown(info)}")
        shape = self.scale_shape or grid(info.shape, self.block)
        _require_blocks(info.shape, self.block, shape)
        return (
            replace(info, dtype=self.quantised, block=None),
            replace(info, dtype=self.scale, shape=shape, block=None),
        )

    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """Computes all scales of the tensor at the first piece, in one pass, and keeps them."""
        (array,) = inputs
        scales = array.memo.get(self)
        if scales is None:
            scales = array.memo[self] = self._scales(array)
        if position == 1:
            return scales.reshape(self.scale_shape or scales.shape)[index]
        values = array.read(index).astype(np.float32)
        spread = _spread(scales, self.block, array.shape, index)
        largest = _largest(self.quantised)
        quotient = np.clip(values / spread, -largest, largest)
        return (np.rint(quotient) if not is_float(self.quantised) else quotient).astype(
            self.quantised
        )

    def _scales(self, array: LazyArray) -> Piece:
        sizes = block_sizes(array.shape, self.block)
        largest = np.zeros(grid(array.shape, self.block), np.float32)
        step = _pass_block(array.shape, array.info.dtype.itemsize)
        for index in blocks(array.shape, step):
            values = np.abs(array.read(index).astype(np.float32))
            for dim, (part, size) in enumerate(zip(index, sizes, strict=True)):
                edges = [0, *range(size - part.start % size, part.stop - part.start, size)]
                values = np.maximum.reduceat(values, edges, axis=dim)
            place = tuple(
                slice(p.start // s, -(-p.stop // s)) for p, s in zip(index, sizes, strict=True)
            )
            largest[place] = np.maximum(largest[place], values)
        scales = np.where(largest == 0, np.float32(1), largest / _largest(self.quantised))
        return scales.astype(self.scale)

    def inverse(self) -> Dequantise:
        """Floats again."""
        return Dequantise(
            quantised=self.quantised,
            scale=self.scale,
            to=self.source,
            block=self.block,
            scale_shape=self.scale_shape,
        )

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """Nearly all."""
        return Loss(f"precision, from {self.source.name} to {self.quantised.name}", rounds=True)

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """It adds the scales."""
        return -int(np.prod(self.scale_shape or grid(inputs[0].shape, self.block), dtype=np.int64))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds fractions; numpy does not know it of those of ml_dtypes."""
    if dtype.kind in "fc":
        return True
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return True


def widens(source: np.dtype[Any], to: np.dtype[Any]) -> bool:
    """Whether every value of one type has a value of its own in the other."""
    if source == to:
        return True
    if is_float(source) and is_float(to) and "c" not in (source.kind, to.kind):
        narrow, wide = ml_dtypes.finfo(source), ml_dtypes.finfo(to)
        return (
            narrow.nmant <= wide.nmant
            and narrow.maxexp <= wide.maxexp
            and float(wide.smallest_subnormal) <= float(narrow.smallest_subnormal)
        )
    return source.kind in "biufc" and to.kind in "biufc" and np.can_cast(source, to, "safe")


def block_sizes(shape: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """Elements that share a scale along each dimension, with 0 read as all of them."""
    if len(block) != len(shape):
        raise OpError(f"block {list(block)} for a tensor of shape {list(shape)}")
    return tuple(b or max(size, 1) for b, size in zip(block, shape, strict=True))


def grid(shape: Sequence[int], block: Sequence[int]) -> tuple[int, ...]:
    """How many blocks there are along each dimension."""
    return tuple(-(-n // b) for n, b in zip(shape, block_sizes(shape, block), strict=True))


def _require_blocks(shape: Sequence[int], block: Sequence[int], scales: Sequence[int]) -> None:
    expected = grid(shape, block)
    if np.prod(expected, dtype=np.int64) != np.prod(scales, dtype=np.int64):
        raise OpError(
            f"a tensor of shape {list(shape)} in blocks of {list(block)} has scales "
            f"{list(expected)}, not {list(scales)}"
        )


def _scales_for(
    scales: LazyArray, shape: tuple[int, ...], block: tuple[int, ...], index: Index
) -> Piece:
    """Scales of a piece, in a shape that broadcasts to it or is equal to it."""
    blocks_along = grid(shape, block)
    if scales.shape == blocks_along:
        sizes = block_sizes(shape, block)
        needed = tuple(
            slice(p.start // s, -(-p.stop // s)) for p, s in zip(index, sizes, strict=True)
        )
        return _spread_from(scales.read(needed).astype(np.float32), sizes, needed, index)
    everything = scales.read(whole(scales.shape)).astype(np.float32).reshape(blocks_along)
    return _spread(everything, block, shape, index)


def _spread(scales: Piece, block: Sequence[int], shape: Sequence[int], index: Index) -> Piece:
    sizes = block_sizes(shape, block)
    return _spread_from(scales.astype(np.float32), sizes, whole(scales.shape), index)


def _spread_from(scales: Piece, sizes: Sequence[int], held: Index, index: Index) -> Piece:
    for dim, (size, have, part) in enumerate(zip(sizes, held, index, strict=True)):
        which = np.arange(part.start, part.stop) // size - have.start
        scales = scales.take(which, axis=dim)
    assert scales.shape == index_shape(index)
    return scales


def _largest(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).max if is_float(dtype) else ml_dtypes.iinfo(dtype).max)


def _pass_block(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    block = list(shape)
    for dim in range(len(shape)):
        inner = int(np.prod(block[dim + 1 :], dtype=np.int64)) * itemsize
        block[dim] = max(1, min(shape[dim], _PASS_BYTES // max(inner, 1)))
        if block[dim] > 1:
            break
    return tuple(block)
