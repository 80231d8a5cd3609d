"""Arrays that lie in files as they lie in memory: any piece by positioned reads.

`pread` rather than `mmap`: mapped pages count as memory of the process until the kernel takes them
back, and a conversion promises how much it uses. (The `safetensors` library maps files, hands out
no bfloat16 or float8 to numpy and writes only what is in memory whole: three reasons to read and
write the format here.)
"""

import itertools
import math
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.errors import CheckpointError, ForeignFileError

_GAP_BYTES = 8 << 10
"""Runs closer than this are read with what lies between them: that is cheaper than another call."""

_CHUNK_BYTES = 1 << 20
"""Most that is read at once with gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A checksum that a file format keeps of some bytes. It is compared before they are used.

    Args:
        offset: Of the first of them.
        nbytes: How many.
        crc: Their CRC-32.
        what: Their name, for messages.
    """

    offset: int
    nbytes: int
    crc: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where an array lies.

    Args:
        path: The file.
        offset: Of its first byte.
        shape: Its shape.
        dtype: Its element type, in the file's byte order.
        order: Its dimensions in the order in which they lie in the file, slowest first; None for
            C order.
        seal: A checksum over it, or over more.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...] | None = None
    seal: "Seal | None" = None

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class FilePool:
    """Files that are opened when they are first read. Threads may share it."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._intact: set[tuple[Path, Seal]] = set()
        self.bytes_read = 0

    def descriptor(self, path: Path) -> int:
        """The file's descriptor.

        Raises:
            ForeignFileError: It cannot be opened.
        """
        with self._lock:
            if path not in self._open:
                try:
                    self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise ForeignFileError(path, f"cannot be opened ({error.strerror})") from error
            return self._open[path]

    def fill(self, path: Path, offset: int, view: memoryview) -> None:
        """Reads into memory.

        Raises:
            ForeignFileError: The file ends too early, or cannot be read.
        """
        descriptor = self.descriptor(path)
        done = 0
        while done < len(view):
            try:
                count = os.preadv(descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise ForeignFileError(path, f"cannot be read ({error.strerror})") from error
            if count == 0:
                raise ForeignFileError(path, f"ends at byte {offset + done}, too early")
            done += count
        self.bytes_read += len(view)

    def check(self, path: Path, seal: Seal) -> None:
        """Compares a checksum, the first time that it is asked for.

        Raises:
            ForeignFileError: It differs.
        """
        if (path, seal) in self._intact:
            return
        crc = 0
        buffer = bytearray(min(seal.nbytes, _CHUNK_BYTES))
        for at in range(0, seal.nbytes, _CHUNK_BYTES):
            part = memoryview(buffer)[: min(_CHUNK_BYTES, seal.nbytes - at)]
            self.fill(path, seal.offset + at, part)
            crc = zlib.crc32(part, crc)
        if crc != seal.crc:
            raise ForeignFileError(
                path, f"holds {seal.what} with checksum {crc:08x} instead of {seal.crc:08x}"
            )
        self._intact.add((path, seal))

    def read(self, path: Path, offset: int, count: int) -> bytes:
        """Reads some bytes."""
        data = bytearray(count)
        self.fill(path, offset, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """Closes all files."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()


class RegionSource:
    """A `TensorSource` of regions.

    Args:
        regions: Name → where it lies.
        metadata: What the files say of themselves.
        values: Leaves that are no tensors.
        pool: The files, where some are open already.
    """

    def __init__(
        self,
        regions: Mapping[str, Region],
        *,
        metadata: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
        pool: FilePool | None = None,
    ) -> None:
        self.regions = dict(regions)
        self.pool = pool or FilePool()
        self._metadata = dict(metadata or {})
        self._values = dict(values or {})

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, in the order of their files and offsets."""
        placed = sorted(self.regions.items(), key=lambda item: (item[1].path, item[1].offset))
        return {
            name: TensorInfo(shape=region.shape, dtype=region.dtype.newbyteorder("="))
            for name, region in placed
        }

    def values(self) -> Mapping[str, Any]:
        """Leaves that are no tensors."""
        return self._values

    def metadata(self) -> Mapping[str, Any]:
        """What the files say of themselves."""
        return self._metadata

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece of a tensor."""
        if name not in self.regions:
            raise CheckpointError(name, "is no tensor of this checkpoint", "autoshard ckpt show")
        return read_region(self.pool, self.regions[name], index)

    def close(self) -> None:
        """Closes the files."""
        self.pool.close()


def read_region(pool: FilePool, region: Region, index: Index) -> np.ndarray[Any, Any]:
    """A piece of an array, contiguous and in native byte order."""
    order = region.order or tuple(range(len(region.shape)))
    shape = tuple(region.shape[dim] for dim in order)
    stored = tuple(index[dim] for dim in order)
    out = np.empty(index_shape(stored), region.dtype)
    if out.size:
        if region.seal is not None:
            pool.check(region.path, region.seal)
        _fill(pool, region, shape, stored, out)
    back = sorted(range(len(order)), key=order.__getitem__)
    native = out.astype(region.dtype.newbyteorder("="), copy=False)
    return np.array(native.transpose(back), order="C", copy=None)


def runs(shape: Sequence[int], index: Index) -> Iterator[tuple[int, int]]:
    """The contiguous runs of a piece of a C-ordered array: first element and number of elements."""
    inner, width, stride = _inner(shape, index)
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    start = 0 if inner < 0 else index[inner].start * stride
    for outer in itertools.product(*(range(p.start, p.stop) for p in index[: max(inner, 0)])):
        yield start + sum(a * s for a, s in zip(outer, strides, strict=False)), width


def _inner(shape: Sequence[int], index: Index) -> tuple[int, int, int]:
    """The last dimension that is not whole (-1 if all are), elements of a run, its stride."""
    inner = len(shape) - 1
    while inner >= 0 and index[inner] == slice(0, shape[inner]):
        inner -= 1
    if inner < 0:
        return -1, math.prod(shape), 1
    stride = math.prod(shape[inner + 1 :])
    return inner, (index[inner].stop - index[inner].start) * stride, stride


def _fill(
    pool: FilePool, region: Region, shape: tuple[int, ...], index: Index, out: np.ndarray[Any, Any]
) -> None:
    size = region.dtype.itemsize
    view = out.reshape(-1).view(np.uint8).data
    inner, width, stride = _inner(shape, index)
    step = 0 if inner <= 0 else shape[inner] * stride * size  # from one run to the next
    count = width * size
    together = max(1, _CHUNK_BYTES // step) if step and step - count <= _GAP_BYTES else 1
    starts = [region.offset + first * size for first, _ in runs(shape, index)]
    at = 0
    while at < len(starts):
        n = _evenly(starts, at, step, together)
        if n == 1:
            pool.fill(region.path, starts[at], view[at * count : (at + 1) * count])
        else:
            span = (n - 1) * step + count
            rows = np.frombuffer(
                pool.read(region.path, starts[at], span) + bytes(step - count), np.uint8
            )
            target = np.frombuffer(view[at * count : (at + n) * count], np.uint8)
            target.reshape(n, count)[...] = rows.reshape(n, step)[:, :count]
        at += n


def _evenly(starts: Sequence[int], at: int, step: int, most: int) -> int:
    """How many runs from here on follow each other at a fixed step."""
    n = 1
    while n < most and at + n < len(starts) and starts[at + n] == starts[at + n - 1] + step:
        n += 1
    return n
