"""Reading a checkpoint, tile by tile; every tile is checked before it is handed out."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._checksums import crc32c
from autoshard.checkpoint._commit import PLAN, TILES, read_commit, read_manifest, read_vouched
from autoshard.checkpoint._manifest import LeafEntry, Manifest
from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.checkpoint._tiles import Grid, Shape, intersect, within
from autoshard.checkpoint._values import decode_value
from autoshard.errors import CheckpointError, CorruptCheckpointError

Array = np.ndarray[Any, Any]


class NativeSource:
    """A checkpoint of this package as a `TensorSource`.

    Args:
        path: The checkpoint.

    Raises:
        CheckpointError: It is not there, not committed, or its manifest is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        self.bytes_read = 0  # of tiles
        self._leaves = self.manifest.by_path()
        self._lock = threading.Lock()

    @cached_property
    def tile_crcs(self) -> Mapping[str, Array]:
        """CRC-32C of every canonical tile, by path."""
        data = read_vouched(self.path, read_commit(self.path), TILES)
        table, start, found = np.frombuffer(data, "<u4"), 0, {}
        for leaf in self.manifest.leaves:
            if leaf.has_files:
                size = len(Grid(leaf.shape, leaf.canonical))
                found[leaf.path] = table[start : start + size]
                start += size
        return found

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All arrays by path."""
        return {leaf.path: leaf.info() for leaf in self.manifest.leaves if leaf.is_array}

    def values(self) -> Mapping[str, Any]:
        """All leaves that are no arrays, by path."""
        leaves = (leaf for leaf in self.manifest.leaves if leaf.value is not None)
        return {leaf.path: decode_value(dict(leaf.value or {})) for leaf in leaves}

    def metadata(self) -> Mapping[str, Any]:
        """What the checkpoint says of itself."""
        m = self.manifest
        names = ("step", "mesh", "plan", "metadata", "digest", "tree")
        found = {name: getattr(m, name) for name in names if getattr(m, name) is not None}
        plan = self.path / PLAN
        return {**found, "plan_file": plan.read_text()} if plan.is_file() else found

    def read(self, name: str, index: Index) -> Array:
        """One piece of an array.

        Raises:
            CorruptCheckpointError: A tile there is damaged.
            CheckpointError: There is no such array.
        """
        leaf = self._leaves.get(name)
        if leaf is None or not leaf.is_array:
            raise CheckpointError(name, "is no array of this checkpoint", "autoshard ckpt show")
        out = np.empty(index_shape(index), leaf.element)
        if out.size:
            for place in leaf.format.tiles.touching(index):
                where = leaf.format.tiles.index(place)
                common = intersect(where, index)
                if common is not None:
                    tile = self.tile(leaf, place)
                    out[within(common, index)] = tile[within(common, where)]
        return out

    def tile(self, leaf: LeafEntry, place: Shape) -> Array:
        """One tile, checked against its own checksum and the committed one.

        Raises:
            CorruptCheckpointError: It is damaged.
            CheckpointError: The checkpoint is not there any more.
        """
        return self.checked_tile(leaf, place)[0]

    def checked_tile(self, leaf: LeafEntry, place: Shape) -> tuple[Array, bytes]:
        """The same, with the checksum that is behind it in its file."""
        layout = leaf.format
        name = f"{leaf.directory}/{layout.file_name(layout.file_of(place))}"
        data = bytearray(layout.stored_bytes)
        problem = self._fill(name, layout.offset(layout.slot(place)), data)
        values = None if problem else layout.decode(data, place)
        if values is None:
            raise self._corrupt(leaf, place, name, problem or "its checksum differs")
        if leaf.tile == leaf.canonical:
            wanted = int(self.tile_crcs[leaf.path][layout.tiles.number(place)])
            whole = values.shape == leaf.tile
            found = int.from_bytes(data[-4:], "little") if whole else crc32c(_dense(values))
            if found != wanted:
                raise self._corrupt(leaf, place, name, "it is not the tile that was committed")
        return values.view(leaf.element), bytes(data[-4:])

    def close(self) -> None:
        """Nothing stays open between reads."""

    def _fill(self, name: str, offset: int, data: bytearray) -> str | None:
        """Read bytes; what went wrong, if anything did."""
        try:
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return f"the file cannot be opened ({error.strerror})"
        try:
            view, done = memoryview(data), 0
            while done < len(view):
                n = os.preadv(descriptor, [view[done:]], offset + done)
                if n == 0:
                    return "the file ends too early"
                done += n
        except OSError as error:
            return f"the file cannot be read ({error.strerror})"
        finally:
            os.close(descriptor)
        with self._lock:
            self.bytes_read += len(data)
        return None

    def _corrupt(self, leaf: LeafEntry, place: Shape, name: str, problem: str) -> CheckpointError:
        if not self.path.is_dir():
            return CheckpointError(
                self.path, "was removed while it was read", "load another; autoshard ckpt ls"
            )
        return CorruptCheckpointError(self.path, [tile_text(leaf, place, name, problem)])


def tile_text(leaf: LeafEntry, place: Shape, name: str, problem: str) -> str:
    """One line on a tile: leaf, tile and file."""
    index = leaf.format.tiles.index(place)
    where = ", ".join(f"{part.start}:{part.stop}" for part in index)
    return f"leaf {leaf.path}, tile {list(place)} = [{where}], file {name}: {problem}"


def _dense(values: Array) -> Array:
    return np.ascontiguousarray(values)


def open_source(path: str | os.PathLike[str]) -> NativeSource:
    """Open a checkpoint to read it in pieces.

    Args:
        path: The checkpoint.

    Returns:
        A `TensorSource`.

    Raises:
        CheckpointError: It is not there, not committed, or its manifest is damaged.
    """
    return NativeSource(path)
