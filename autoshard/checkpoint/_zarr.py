"""Arrays on disk: Zarr 3 with sharding, uncompressed, a CRC-32C behind each tile.

A file holds the tiles of one block, in row-major order and each followed by its checksum, then an
index of (offset, bytes) pairs and the checksum of the index (Zarr 3 specification, codec
``sharding_indexed``). Uncompressed tiles have one size, so each has its place before any is
written: they are written in any order, by several threads, and read one at a time.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.checkpoint._checksums import as_bytes, crc32c
from autoshard.checkpoint._tiles import Grid, Shape, ravel

_ABSENT = 2**64 - 1
_CRC_BYTES = 4
_CRC = struct.Struct("<I")

# What stock readers of Zarr 3 in orbax open (tensorstore 0.1.86); others are stored as raw bytes.
ORBAX_DTYPES = frozenset(
    {"bool", "int2", "int4", "int8", "int16", "int32", "int64"}
    | {"uint8", "uint16", "uint32", "uint64", "complex64", "complex128"}
    | {"float16", "bfloat16", "float32", "float64", "float4_e2m1fn", "float8_e8m0fnu"}
    | {"float8_e3m4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"}
    | {"float8_e5m2", "float8_e5m2fnuz"}
)


def dtype_of(name: str) -> np.dtype[Any]:
    """The element type of a name, as numpy or ml_dtypes know it.

    Raises:
        TypeError: Neither does.
    """
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


@dataclass(frozen=True)
class ArrayFormat:
    """How one array lies in files.

    Args:
        shape: Of the array; no dimension is empty.
        dtype: Of its elements in the files, native or little-endian.
        tile: Shape of a tile.
        block: Shape of what shares a file: whole tiles.
    """

    shape: Shape
    dtype: np.dtype[Any]
    tile: Shape
    block: Shape

    @cached_property
    def tiles(self) -> Grid:
        """The grid of tiles."""
        return Grid(self.shape, self.tile)

    @cached_property
    def files(self) -> Grid:
        """The grid of files."""
        return Grid(self.shape, self.block)

    @cached_property
    def tile_bytes(self) -> int:
        """Bytes of a tile in a file, ragged ones filled up; without the checksum."""
        return math.prod(self.tile) * self.dtype.itemsize

    @cached_property
    def tiles_per_block(self) -> Shape:
        """Tiles along each dimension of a block."""
        return tuple(b // t for b, t in zip(self.block, self.tile, strict=True))

    def file_of(self, tile: Shape) -> Shape:
        """Which file a tile is in."""
        return tuple(p // n for p, n in zip(tile, self.tiles_per_block, strict=True))

    def present(self, file: Shape) -> Shape:
        """Tiles along each dimension that a file really has."""
        return tuple(
            min(n, count - f * n)
            for f, n, count in zip(file, self.tiles_per_block, self.tiles.counts, strict=True)
        )

    def present_tiles(self, file: Shape) -> int:
        """How many tiles a file really has."""
        return math.prod(self.present(file))

    def slot(self, tile: Shape) -> int:
        """The number of a tile within its file."""
        file = self.file_of(tile)
        local = [p - f * n for p, f, n in zip(tile, file, self.tiles_per_block, strict=True)]
        return ravel(local, self.present(file))

    def offset(self, slot: int) -> int:
        """Where in its file a tile begins."""
        return slot * (self.tile_bytes + _CRC_BYTES)

    def tiles_of(self, file: Shape) -> Iterator[Shape]:
        """Places of a file's tiles, in their order."""
        counts = self.present(file)
        start = [f * n for f, n in zip(file, self.tiles_per_block, strict=True)]
        for local in np.ndindex(*counts):
            yield tuple(s + p for s, p in zip(start, local, strict=True))

    def file_bytes(self, file: Shape) -> int:
        """Bytes of a whole file."""
        return self.offset(self.present_tiles(file)) + len(self.index(file))

    def index(self, file: Shape) -> bytes:
        """The index at the end of a file. It follows from the format alone."""
        present = self.present(file)
        table = np.full((*self.tiles_per_block, 2), _ABSENT, "<u8")
        slots = np.arange(math.prod(present), dtype="<u8").reshape(present)
        size = self.tile_bytes + _CRC_BYTES
        corner = tuple(slice(0, n) for n in present)
        table[(*corner, 0)] = slots * np.uint64(size)
        table[(*corner, 1)] = size
        body = table.tobytes()
        return body + _CRC.pack(crc32c(body))

    def file_name(self, file: Shape) -> str:
        """The path of a file below the array's directory."""
        return "/".join(["c", *map(str, file)])

    def metadata(self) -> bytes:
        """The content of ``zarr.json``."""
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        if self.dtype.itemsize == 1:
            little = {"name": "bytes"}
        name = self.dtype.name
        zero: Any = False if name == "bool" else [0.0, 0.0] if name.startswith("complex") else 0
        zero = 0.0 if name.startswith(("float", "bfloat")) else zero
        index_codecs: list[dict[str, Any]] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        sharding = {
            "chunk_shape": list(self.tile),
            "codecs": [little, {"name": "crc32c"}],
            "index_codecs": index_codecs,
            "index_location": "end",
        }
        document: dict[str, Any] = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.block)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": zero,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }
        return json.dumps(document, sort_keys=True).encode()

    def encode(self, place: Shape, values: np.ndarray[Any, Any]) -> tuple[memoryview, bytes, int]:
        """A tile's bytes in its file.

        Args:
            place: Of the tile.
            values: Its elements, contiguous; without what fills up a ragged tile.

        Returns:
            The bytes, the checksum behind them, and the checksum of ``values`` alone.
        """
        body = as_bytes(values)
        crc = crc32c(body)
        if values.shape == self.tile:
            return body, _CRC.pack(crc), crc
        full = np.zeros(self.tile, self.dtype)
        full[tuple(slice(0, n) for n in values.shape)] = values
        body = as_bytes(full)
        return body, _CRC.pack(crc32c(body)), crc

    def decode(self, data: bytearray, place: Shape) -> np.ndarray[Any, Any] | None:
        """A tile from its bytes and checksum; None where these disagree."""
        body = memoryview(data)[:-_CRC_BYTES]
        if _CRC.unpack_from(data, self.tile_bytes)[0] != crc32c(body):
            return None
        full = np.frombuffer(body, np.uint8).view(self.dtype).reshape(self.tile)
        index = self.tiles.index(place)
        return full[tuple(slice(0, part.stop - part.start) for part in index)]

    @property
    def stored_bytes(self) -> int:
        """Bytes of a tile with its checksum."""
        return self.tile_bytes + _CRC_BYTES

    def file_crc(self, trailers: Sequence[bytes | None], index: bytes) -> int:
        """CRC-32C of the checksums in a file of tiles, and of its index.

        Not of the whole file: the CRC of a text followed by its own CRC is a constant, so that of
        a file of such pieces would be the same for any tiles in any order.

        Args:
            trailers: Checksum bytes behind each tile, by slot.
            index: The index.
        """
        return crc32c(b"".join(trailer or b"" for trailer in trailers) + index)
