"""Writing tiles into files: in any order, by any thread. Small files are synced together."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._checksums import crc32c
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._tiles import Shape
from autoshard.checkpoint._zarr import ArrayFormat

_LARGE_BYTES = 8 << 20  # from here on, a file is synced while others are written


class _OpenFile:
    """A file that still lacks tiles."""

    def __init__(self, descriptor: int, path: Path, tiles: int) -> None:
        self.descriptor = descriptor
        self.path = path
        self.missing = tiles
        self.trailers: list[bytes | None] = [None] * tiles
        self.values = [0] * tiles


Finished = Callable[[str, ArrayFormat, Shape, Sequence[int]], None]
"""Called with an array's directory and format, a file, and the CRC-32C of each tile's elements."""


class TileWriter:
    """Writes the arrays of one process.

    Args:
        root: The directory that everything goes below; it is there.
        files: How files are changed.
        finished: Told of every file of tiles that is whole.
    """

    def __init__(self, root: Path, files: Files, finished: Finished | None = None) -> None:
        self.root = root
        self._finished = finished
        self.written: dict[
            str, tuple[int, int]
        ] = {}  # path below root -> bytes, CRC-32C (see `file_crc`)
        self._files = files
        self._unsynced: list[Path] = []
        self._open: dict[tuple[str, Shape], _OpenFile] = {}
        self._lock = threading.Lock()

    def add_file(self, name: str, data: bytes) -> None:
        """Write a whole small file."""
        path = self.root / name
        self._files.make_directories(path.parent, self.root)
        self._files.write_new(path, data, sync=False)
        with self._lock:
            self.written[name] = (len(data), crc32c(data))
            self._unsynced.append(path)

    def sync(self) -> None:
        """Wait until all that is whole is on the disk."""
        with self._lock:
            waiting, self._unsynced = self._unsynced, []
        self._files.sync_all(waiting)

    def write(
        self, directory: str, layout: ArrayFormat, place: Shape, values: np.ndarray[Any, Any]
    ) -> int:
        """Write one tile; each exactly once.

        Args:
            directory: Of the array, below the root.
            layout: How the array lies in files.
            place: Of the tile.
            values: Its elements, contiguous.

        Returns:
            The CRC-32C of the elements.
        """
        file = layout.file_of(place)
        found = self._file(directory, layout, file)
        body, trailer, crc = layout.encode(place, values)
        slot = layout.slot(place)
        offset = layout.offset(slot)
        self._files.write_at(found.descriptor, body, offset, found.path)
        self._files.write_at(
            found.descriptor, memoryview(trailer), offset + layout.tile_bytes, found.path
        )
        with self._lock:
            if found.trailers[slot] is not None:
                raise ValueError(f"tile {place} of {directory} is written twice")
            found.trailers[slot], found.values[slot] = trailer, crc
            found.missing -= 1
            whole = found.missing == 0
            if whole:
                del self._open[directory, file]
        if whole:
            self._finish(directory, layout, file, found)
        return crc

    def unfinished(self) -> list[str]:
        """Files that lack tiles."""
        with self._lock:
            return [str(found.path) for found in self._open.values()]

    def close(self) -> None:
        """Let go of files that will never be finished."""
        with self._lock:
            for found in self._open.values():
                os.close(found.descriptor)
            self._open.clear()

    def _file(self, directory: str, layout: ArrayFormat, file: Shape) -> _OpenFile:
        with self._lock:
            found = self._open.get((directory, file))
            if found is None:
                path = self.root / directory / layout.file_name(file)
                self._files.make_directories(path.parent, self.root)
                descriptor = self._files.create(path)
                found = _OpenFile(descriptor, path, math.prod(layout.present(file)))
                self._open[directory, file] = found
            return found

    def _finish(self, directory: str, layout: ArrayFormat, file: Shape, found: _OpenFile) -> None:
        try:
            index = layout.index(file)
            offset = layout.offset(len(found.values))
            self._files.write_at(found.descriptor, memoryview(index), offset, found.path)
            large = layout.file_bytes(file) >= _LARGE_BYTES
            if large:
                self._files.sync(found.descriptor, found.path)
        finally:
            os.close(found.descriptor)
        crc = layout.file_crc(found.trailers, index)
        with self._lock:
            if not large:
                self._unsynced.append(found.path)
            name = f"{directory}/{layout.file_name(file)}"
            self.written[name] = (layout.file_bytes(file), crc)
        if self._finished is not None:
            self._finished(directory, layout, file, found.values)
