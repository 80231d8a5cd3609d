"""Arithmetic on indices, the pieces of arrays: what of an input does a piece of an output need?"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoshard.checkpoint._tensors import Index, index_shape

Range = tuple[int, int]
"""Start and stop."""


def shifted(index: Index, by: Sequence[int]) -> Index:
    """The index moved by an offset per dimension."""
    return tuple(slice(part.start + d, part.stop + d) for part, d in zip(index, by, strict=True))


def replaced(index: Index, dim: int, part: slice) -> Index:
    """The index with another slice in one dimension."""
    return (*index[:dim], part, *index[dim + 1 :])


def blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[Index]:
    """All pieces of a regular grid over an array, the last ones smaller, in C order.

    Args:
        shape: The array's shape.
        block: Shape of a piece.
    """
    steps = [
        [slice(at, min(at + step, size)) for at in range(0, size, step)]
        for size, step in zip(shape, block, strict=True)
    ]
    return itertools.product(*steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshapePiece:
    """A part of a reshaped array, and where its elements come from.

    Args:
        target: Where it lies, within the piece that is asked for.
        buffer_shape: A shape with one dimension per group of dimensions, in which it is collected.
        parts: Pieces of the source, each with its place in the buffer.
    """

    target: Index
    buffer_shape: tuple[int, ...]
    parts: tuple[tuple[Index, Index], ...]


def reshape_pieces(
    source: Sequence[int], target: Sequence[int], index: Index
) -> list[ReshapePiece]:
    """What a piece of a reshaped array needs of the array, without an element too many.

    Dimensions fall into groups whose sizes have the same product before and after. Within a group a
    piece is a number of runs in C order; each run is at most `2 * rank - 1` boxes of the source.

    Args:
        source: Shape before, of as many elements as `target`.
        target: Shape after.
        index: The piece.

    Returns:
        Pieces that tile it. None, where it is empty.
    """
    if 0 in index_shape(index):
        return []
    groups = _groups(source, target)
    runs = [list(_runs(target[g.target], index[g.target])) for g in groups]
    pieces: list[ReshapePiece] = []
    for combination in itertools.product(*runs):
        boxes = [
            _range_boxes(source[g.source], *run.range)
            for g, run in zip(groups, combination, strict=True)
        ]
        parts = tuple(
            (
                tuple(itertools.chain.from_iterable(box for box, _ in chosen)),
                tuple(slice(at, at + math.prod(index_shape(box))) for box, at in chosen),
            )
            for chosen in itertools.product(*boxes)
        )
        pieces.append(
            ReshapePiece(
                target=tuple(itertools.chain.from_iterable(run.place for run in combination)),
                buffer_shape=tuple(run.range[1] - run.range[0] for run in combination),
                parts=parts,
            )
        )
    return pieces


@dataclass(frozen=True, slots=True)
class _Group:
    source: slice
    target: slice


def _groups(source: Sequence[int], target: Sequence[int]) -> list[_Group]:
    """Splits both shapes into the smallest runs of dimensions with equal products."""
    groups: list[_Group] = []
    i = j = 0
    while i < len(source) or j < len(target):
        first_i, first_j = i, j
        left = right = 1
        if i < len(source):
            left, i = source[i], i + 1
        if j < len(target):
            right, j = target[j], j + 1
        while left != right:
            if left < right:
                left, i = left * source[i], i + 1
            else:
                right, j = right * target[j], j + 1
        groups.append(_Group(slice(first_i, i), slice(first_j, j)))
    return groups


@dataclass(frozen=True, slots=True)
class _Run:
    range: Range  # of the group's elements in C order
    place: Index  # within the piece


def _runs(shape: Sequence[int], index: Index) -> Iterator[_Run]:
    """The stretches of a piece that are contiguous in C order."""
    inner = len(shape)  # dimensions from here on are taken whole
    while inner > 0 and index[inner - 1] == slice(0, shape[inner - 1]):
        inner -= 1
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    whole = tuple(slice(0, size) for size in shape[inner:])
    if inner == 0:
        yield _Run((0, math.prod(shape)), whole)
        return
    last = index[inner - 1]
    for outer in itertools.product(*(range(p.start, p.stop) for p in index[: inner - 1])):
        start = sum(at * stride for at, stride in zip(outer, strides, strict=False))
        place = tuple(
            slice(at - p.start, at - p.start + 1) for at, p in zip(outer, index, strict=False)
        )
        stride = strides[inner - 1]
        yield _Run(
            (start + last.start * stride, start + last.stop * stride),
            (*place, slice(0, last.stop - last.start), *whole),
        )


def _range_boxes(shape: Sequence[int], start: int, stop: int) -> list[tuple[Index, int]]:
    """Boxes that tile a range of elements in C order, each with its offset in the range."""
    return [(box, at - start) for box, at in _boxes_at(shape, start, stop)]


def _boxes_at(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[Index, int]]:
    if not shape:
        yield (), start
        return
    row = math.prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last and stop - start < row:
        for box, at in _boxes_at(shape[1:], start - first * row, stop - first * row):
            yield (slice(first, first + 1), *box), at + first * row
        return
    full = (-(-start // row), stop // row)
    if start < full[0] * row:
        yield from _boxes_at(shape, start, full[0] * row)
    if full[0] < full[1]:
        rest = tuple(slice(0, size) for size in shape[1:])
        yield (slice(*full), *rest), full[0] * row
    if full[1] * row < stop:
        yield from _boxes_at(shape, full[1] * row, stop)
