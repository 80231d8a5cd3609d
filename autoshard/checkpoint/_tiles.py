"""How arrays are cut: tiles that are read and checked whole, and files of tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoshard.checkpoint._tensors import Index

TILE_BYTES = 1 << 20
"""No tile is larger. This and `_CUTS` are part of the format: digests depend on canonical tiles."""
_CUTS = ((8 << 20, 3), (1 << 20, 2))
"""From so many bytes, each of the last two dimensions is halved so many times at least."""
_LEAST_SIDE = 16  # elements
FILE_BYTES = 128 << 20
"""No file of tiles is larger."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid over an array; the last tile along a dimension may be ragged.

    Args:
        shape: Of the array; no dimension is empty.
        tile: Of a tile.
    """

    shape: Shape
    tile: Shape

    @property
    def counts(self) -> Shape:
        """Tiles along each dimension."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def place(self, number: int) -> Shape:
        """Where in the grid a tile is, from its number in row-major order."""
        return unravel(number, self.counts)

    def number(self, place: Sequence[int]) -> int:
        """The reverse of `place`."""
        return ravel(place, self.counts)

    def index(self, place: Sequence[int]) -> Index:
        """Which part of the array a tile is."""
        return tuple(
            slice(p * t, min(n, (p + 1) * t))
            for p, t, n in zip(place, self.tile, self.shape, strict=True)
        )

    def touching(self, index: Index) -> Iterator[Shape]:
        """Places of the tiles that share an element with a part of the array."""
        return places(
            [
                range(part.start // t, -(-part.stop // t))
                for part, t in zip(index, self.tile, strict=True)
            ]
        )


def ravel(place: Sequence[int], counts: Sequence[int]) -> int:
    """Row-major number of a place."""
    number = 0
    for p, n in zip(place, counts, strict=True):
        number = number * n + p
    return number


def unravel(number: int, counts: Sequence[int]) -> Shape:
    """Place of a row-major number."""
    place: list[int] = []
    for n in reversed(counts):
        number, p = divmod(number, n)
        place.append(p)
    return tuple(reversed(place))


def places(ranges: Sequence[range]) -> Iterator[Shape]:
    """All combinations, row-major."""
    if any(len(r) == 0 for r in ranges):
        return
    counts = [len(r) for r in ranges]
    for number in range(math.prod(counts)):
        local = unravel(number, counts)
        yield tuple(r[p] for r, p in zip(ranges, local, strict=True))


def intersect(a: Index, b: Index) -> Index | None:
    """What two parts of one array share, if anything."""
    common = tuple(
        slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True)
    )
    return None if any(part.start >= part.stop for part in common) else common


def within(inner: Index, outer: Index) -> Index:
    """A part of an array as a part of a larger part of it."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )


def covers(outer: Index, inner: Index) -> bool:
    """Whether one part contains another."""
    return all(o.start <= i.start and i.stop <= o.stop for o, i in zip(outer, inner, strict=True))


def canonical_tile(shape: Sequence[int], itemsize: int) -> Shape:
    """The tile of an array, from nothing but its shape and the bytes of an element.

    Dimensions are halved until it fits `TILE_BYTES`: first the leading ones, from the left, for
    they stack what is read apart (layers, experts); then the larger of the last two. These two are
    cut a few times in any case, so that a reader of some rows or columns does not read them all.
    Halving, unlike a fixed side, leaves tiles almost equal and meets the borders of shards that
    are cut by powers of two.
    """
    tile = [max(1, n) for n in shape]
    leading = range(len(tile) - 2)
    while math.prod(tile) * itemsize > TILE_BYTES and any(tile[d] > 1 for d in leading):
        d = next(d for d in leading if tile[d] > 1)
        tile[d] = -(-tile[d] // 2)
    nbytes = math.prod(tile) * itemsize
    times = next((n for least, n in _CUTS if nbytes >= least), 0) if len(tile) > 1 else 0
    for d in range(max(0, len(tile) - 2), len(tile)):
        for _ in range(times):
            if tile[d] >= 2 * _LEAST_SIDE:
                tile[d] = -(-tile[d] // 2)
    while math.prod(tile) * itemsize > TILE_BYTES:
        d = max(range(len(tile)), key=tile.__getitem__)
        tile[d] = -(-tile[d] // 2)
    return tuple(tile)


def storage_tile(shape: Sequence[int], itemsize: int, part: Sequence[int]) -> Shape:
    """The tile of an array whose parts are written by different processes.

    No tile may belong to two of them, so along a dimension that is cut it divides the part: it is
    the largest divisor that fits into the canonical tile, unless that were a splinter.

    Args:
        shape: Of the array.
        itemsize: Bytes of an element.
        part: Shape of the parts, which divides ``shape``; the shape itself where nothing is cut.
    """
    tile = list(canonical_tile(shape, itemsize))
    for d, (whole, own) in enumerate(zip(shape, part, strict=True)):
        if own == whole or own % tile[d] == 0:
            continue
        divisor = next(k for k in range(min(tile[d], own), 0, -1) if own % k == 0)
        tile[d] = divisor if 8 * divisor >= min(tile[d], own) else own
    # A part without useful divisors may have made the tile large: cut what is not cut yet.
    while math.prod(tile) * itemsize > 2 * TILE_BYTES:
        free = [d for d in range(len(tile)) if part[d] == shape[d] and tile[d] > 1]
        if not free:
            break
        d = max(free, key=tile.__getitem__)
        tile[d] = -(-tile[d] // 2)
    return tuple(tile)


def file_block(shape: Sequence[int], tile: Sequence[int], itemsize: int, part: Shape) -> Shape:
    """The part of an array that shares a file: a whole number of tiles along each dimension.

    Tiles are gathered from the last dimension up, so that a file is read in one sweep.

    Args:
        shape: Of the array.
        tile: Of its tiles.
        itemsize: Bytes of an element.
        part: Shape of the parts that belong to different processes.
    """
    room = max(1, FILE_BYTES // (math.prod(tile) * itemsize))
    block = list(tile)
    for d in reversed(range(len(tile))):
        tiles = -(-part[d] // tile[d])
        if part[d] != shape[d]:  # equal numbers of tiles, so that no file spans two parts
            multiple = next(k for k in range(min(room, tiles), 0, -1) if tiles % k == 0)
        else:
            multiple = min(room, tiles)
        block[d] *= multiple
        room //= multiple
        if multiple < tiles:
            break
    return tuple(block)
