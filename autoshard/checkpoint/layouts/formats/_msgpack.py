"""Flax's msgpack: nested maps with arrays as extension values.

What `flax.serialization.to_bytes` writes: an array is extension 1 around the packed triple of
shape, name of the type, and bytes; an array of more than 2^30 bytes is a map with chunks.
The format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from autoshard.checkpoint._tensors import (
    Index,
    TensorInfo,
    index_shape,
    join_path,
    split_path,
)
from autoshard.checkpoint.layouts._boxes import reshape_pieces
from autoshard.checkpoint.layouts._parameters import dtype_of
from autoshard.checkpoint.layouts.formats._region_sink import FilePlan, RegionSink
from autoshard.checkpoint.layouts.formats._regions import (
    FilePool,
    Region,
    RegionSource,
    read_region,
)
from autoshard.errors import CheckpointLeafError, ForeignFileError

_MOST_BYTES = 2**32 - 2**10
"""What an extension value can hold beside its shape. Flax itself cuts at 2^30, to be careful."""
_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_MOST_DEPTH = 200


class MsgpackSource(RegionSource):
    """A msgpack file; arrays in chunks are read as one."""

    def __init__(
        self,
        regions: Mapping[str, Region],
        chunks: Mapping[str, tuple[tuple[int, ...], list[Region]]],
        values: Mapping[str, Any],
        pool: FilePool,
    ) -> None:
        super().__init__(regions, values=values, pool=pool)
        self._chunks = dict(chunks)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors."""
        chunked = {
            name: TensorInfo(shape=shape, dtype=parts[0].dtype)
            for name, (shape, parts) in self._chunks.items()
        }
        return {**super().tensors(), **chunked}

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece of a tensor."""
        if name not in self._chunks:
            return super().read(name, index)
        shape, parts = self._chunks[name]
        out = np.empty(index_shape(index), parts[0].dtype)
        flat = (math.prod(shape),)
        for piece in reshape_pieces(flat, shape, index):
            ((span,), _), *_ = piece.parts
            run = self._run(parts, span.start, span.stop)
            out[piece.target] = run.reshape(index_shape(piece.target))
        return out

    def _run(self, parts: list[Region], start: int, stop: int) -> np.ndarray[Any, Any]:
        out = np.empty(stop - start, parts[0].dtype)
        at = 0
        for part in parts:
            (size,) = part.shape
            low, high = max(start, at), min(stop, at + size)
            if low < high:
                found = read_region(self.pool, part, (slice(low - at, high - at),))
                out[low - start : high - start] = found
            at += size
        return out


def open_msgpack(path: Path) -> MsgpackSource:
    """Opens what `flax.serialization.to_bytes` wrote, without reading the arrays.

    Raises:
        ForeignFileError: It is damaged, or something else.
    """
    pool = FilePool()
    walker = _Walker(pool, path)
    try:
        tree = walker.value(0)
    except (ValueError, TypeError, KeyError, msgpack.exceptions.ExtraData) as error:
        problem = f"is no msgpack of arrays, at byte {walker.at}: {error}"
        raise ForeignFileError(path, problem) from error
    if walker.at != walker.size or not isinstance(tree, dict):
        raise ForeignFileError(path, f"is no msgpack map of {walker.size} bytes")
    regions: dict[str, Region] = {}
    chunks: dict[str, tuple[tuple[int, ...], list[Region]]] = {}
    values: dict[str, Any] = {}
    _sort(tree, (), regions, chunks, values)
    return MsgpackSource(regions, chunks, values, pool)


def _sort(
    value: Any,
    parts: tuple[str, ...],
    regions: dict[str, Region],
    chunks: dict[str, tuple[tuple[int, ...], list[Region]]],
    values: dict[str, Any],
) -> None:
    name = join_path(parts)
    if isinstance(value, Region):
        regions[name] = value
    elif isinstance(value, dict) and _CHUNKED in value:
        shape = tuple(value["shape"][str(i)] for i in range(len(value["shape"])))
        found = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
        chunks[name] = (shape, found)
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _sort(item, (*parts, str(key)), regions, chunks, values)
        if not value:
            values[name] = {} if isinstance(value, dict) else []
    else:
        values[name] = value


class _Walker:
    """Steps through a msgpack file and leaves out the bytes of arrays."""

    def __init__(self, pool: FilePool, path: Path) -> None:
        self.pool, self.path = pool, path
        self.size = path.stat().st_size
        self.at = 0
        self._window, self._start = b"", 0

    def value(self, depth: int) -> Any:
        """The value here; an array is a `Region`."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        (kind,) = self._take(1)
        if kind <= 0x7F:
            return kind
        if kind >= 0xE0:
            return kind - 0x100
        if kind <= 0x8F:
            return self._map(kind & 0x0F, depth)
        if kind <= 0x9F:
            return self._array(kind & 0x0F, depth)
        if kind <= 0xBF:
            return self._take(kind & 0x1F).decode()
        return self._long(kind, depth)

    def _long(self, kind: int, depth: int) -> Any:
        if kind in _FIXED:
            return _FIXED[kind]
        if kind in _NUMBERS:
            form = _NUMBERS[kind]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if kind in _SIZED:
            group, form = _SIZED[kind]
            count = struct.unpack(form, self._take(struct.calcsize(form)))[0]
            if group == "ext":
                return self._extension(count)
            if group == "map":
                return self._map(count, depth)
            if group == "array":
                return self._array(count, depth)
            data = self._take(count)
            return data.decode() if group == "str" else data
        if 0xD4 <= kind <= 0xD8:
            return self._extension(1 << (kind - 0xD4))
        raise ValueError(f"byte {kind:#x} starts no value")

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str | int):
                raise ValueError(f"a key that is {type(key).__name__}")
            if str(key) in found:
                raise ValueError(f"the key {key} twice")
            found[str(key)] = self.value(depth + 1)
        return found

    def _array(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _extension(self, count: int) -> Any:
        (code,) = struct.unpack("b", self._take(1))
        end = self.at + count
        if code == _COMPLEX:
            real, imaginary = msgpack.unpackb(self._take(count))
            return complex(real, imaginary)
        if code not in (_NDARRAY, _SCALAR):
            raise ValueError(f"an extension of kind {code}")
        (first,) = self._take(1)
        if first != 0x93:
            raise ValueError("an array that is no triple")
        shape, name = tuple(self.value(0)), self.value(0)
        dtype = dtype_of(name)
        kind = self._take(1)[0]
        if kind not in _BINARY:
            raise ValueError("an array without bytes")
        form = _BINARY[kind]
        (nbytes,) = struct.unpack(form, self._take(struct.calcsize(form)))
        if nbytes != math.prod(shape) * dtype.itemsize or self.at + nbytes != end:
            raise ValueError(f"{nbytes} bytes for {name}{list(shape)}")
        region = Region(path=self.path, offset=self.at, shape=shape, dtype=dtype)
        if end > self.size:
            raise ValueError("the file ends within an array")
        self.at = end
        return region

    def _take(self, count: int) -> bytes:
        if self.at + count > self.size:
            raise ValueError("the file ends within a value")
        start = self.at - self._start
        if not 0 <= start <= len(self._window) - count:
            n = min(max(count, 1 << 16), self.size - self.at)
            self._window, self._start = self.pool.read(self.path, self.at, n), self.at
            start = 0
        self.at += count
        return self._window[start : start + count]


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_BINARY = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_SIZED = {
    **{kind: ("bin", form) for kind, form in _BINARY.items()},
    **{0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I")},
    **{0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I")},
    **{0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I")},
}


class MsgpackSink(RegionSink):
    """Writes what `flax.serialization.msgpack_restore` reads."""

    @property
    def single_file(self) -> bool:
        """It is a file."""
        return True

    def put_value(self, name: str, value: Any) -> None:
        """Stores what msgpack knows: None, numbers, texts."""
        try:
            msgpack.packb(value)
        except (TypeError, ValueError, OverflowError):
            super().put_value(name, value)
        self._values[name] = value

    def plan(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, Any]) -> list[FilePlan]:
        """One file."""
        tree: dict[str, Any] = {}
        for name, leaf in {**infos, **self._values}.items():
            *folders, last = split_path(name)
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
                if not isinstance(node, dict):
                    raise CheckpointLeafError(name, "a leaf below another leaf")
            node[last] = (name, leaf)
        writer = _Writer(Path(self.path.name))
        writer.tree(tree)
        return [writer.finish()]


class _Writer:
    """Lays out a msgpack file: bytes between arrays, and where arrays lie."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = bytearray()
        self._literals: dict[int, bytes] = {}
        self._regions: dict[str, Region] = {}
        self._start = 0
        self._packer = msgpack.Packer()

    def tree(self, node: Mapping[str, Any]) -> None:
        """A map and what is in it."""
        self._pending += self._packer.pack_map_header(len(node))
        for key, item in node.items():
            self._pending += self._packer.pack(key)
            if isinstance(item, dict):
                self.tree(item)
            elif isinstance(item[1], TensorInfo):
                self._array(*item)
            else:
                self._pending += self._packer.pack(item[1])

    def _array(self, name: str, info: TensorInfo) -> None:
        if info.nbytes > _MOST_BYTES:
            raise CheckpointLeafError(name, f"an array of {info.nbytes} bytes, as Flax msgpack,")
        self._leaf(info.shape, info.dtype, info.nbytes)
        self._place(name, info.shape, info.dtype)
        self._start += info.nbytes

    def _leaf(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> None:
        packed = self._packer.pack(shape), self._packer.pack(dtype.name)
        triple = b"\x93" + b"".join(packed)
        triple += b"\xc6" + struct.pack(">I", nbytes)
        total = len(triple) + nbytes
        self._pending += b"\xc9" + struct.pack(">Ib", total, _NDARRAY) + triple

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._flush()
        self._regions[name] = Region(
            path=self._path, offset=self._start, shape=shape, dtype=dtype.newbyteorder("<")
        )

    def _flush(self) -> None:
        if self._pending:
            self._literals[self._start] = bytes(self._pending)
            self._start += len(self._pending)
            self._pending.clear()

    def finish(self) -> FilePlan:
        """The file."""
        self._flush()
        return FilePlan(
            name=self._path.name,
            nbytes=self._start,
            literals=self._literals,
            regions=self._regions,
        )
