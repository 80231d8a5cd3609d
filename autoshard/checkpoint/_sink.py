"""Writing a checkpoint piece by piece, without ever having it whole."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from autoshard.checkpoint._checksums import content_digest, tree_digest
from autoshard.checkpoint._commit import PLAN, absolute, open_staging, require_free, staging_of
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._journal import Journal
from autoshard.checkpoint._manifest import Container, LeafEntry, Manifest, Storage
from autoshard.checkpoint._orbax import Names, check_names
from autoshard.checkpoint._owner import JOURNAL, new_token
from autoshard.checkpoint._save import finish_checkpoint, writer_versions
from autoshard.checkpoint._tensors import Index, TensorInfo, split_path
from autoshard.checkpoint._tiles import (
    Shape,
    canonical_tile,
    covers,
    file_block,
    intersect,
    within,
)
from autoshard.checkpoint._tree import Key
from autoshard.checkpoint._values import encode_value, value_digest
from autoshard.checkpoint._writer import TileWriter
from autoshard.checkpoint._zarr import ORBAX_DTYPES, ArrayFormat
from autoshard.errors import CheckpointError, CheckpointLeafError, CheckpointWriteError

Array = np.ndarray[Any, Any]


class NativeSink:
    """A new checkpoint of this package as a `TensorSink`.

    Args:
        path: Where it will be.
        journal: Keep what is finished when the process dies: a later sink of the same path, also
            with a journal, goes on from there.

    Raises:
        CheckpointExistsError: Something is at ``path``.
        CheckpointWriteError: It cannot be written, or another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], *, journal: bool = False) -> None:
        self.path = absolute(path)
        self._files = Files()
        self._names = Names()
        self._leaves: dict[str, LeafEntry] = {}
        self._crcs: dict[str, dict[int, int]] = {}
        self._partial: dict[tuple[str, Shape], tuple[Array, int]] = {}
        self._describe: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._over = False
        token = JOURNAL if journal else new_token()
        staging = staging_of(self.path, token)
        self._writer = TileWriter(staging, self._files, self._finished)
        with self._writing():
            if journal and staging.is_dir():
                require_free(self.path)
                self._open_journal()
                return
            open_staging(self.path, token, self._files)
            try:
                if journal:
                    self._open_journal()
            except BaseException:
                self._files.remove_tree_quietly(staging)
                raise

    def declare(self, name: str, info: TensorInfo) -> Shape:
        """Announce an array.

        Returns:
            The shape of its tiles: pieces of whole tiles are written at once.

        Raises:
            CheckpointKeyError: It would share a place on disk with another.
            CheckpointLeafError: Its dtype cannot be stored.
        """
        entry = _entry(name, info)
        self._names.add(entry)
        self._leaves[name] = entry
        if not entry.has_files:
            return entry.shape
        self._crcs[name] = {}
        with self._writing():
            metadata = f"{entry.directory}/zarr.json"
            if metadata not in self._writer.written:
                self._writer.add_file(metadata, entry.format.metadata())
                if self._journal is not None:
                    self._journal.add(metadata, self._writer.written[metadata], entry.directory, {})
        if self._journal is not None:
            self._crcs[name].update(self._journal.crcs(entry.directory))
        return entry.tile

    def pending(self, name: str) -> list[Index]:
        """The parts of an array that are not on the disk yet, one per file.

        Without a journal, or on a fresh one, together they are the whole array.
        """
        entry = self._leaves[name]
        if not entry.has_files:
            return []
        layout = entry.format
        numbers = (layout.files.place(i) for i in range(len(layout.files)))
        return [
            layout.files.index(file)
            for file in numbers
            if f"{entry.directory}/{layout.file_name(file)}" not in self._writer.written
        ]

    def tiles(self, name: str, part: Index) -> Iterator[Index]:
        """The tiles of a part of an array, in the order of their file."""
        grid = self._leaves[name].format.tiles
        return map(grid.index, grid.touching(part))

    def write(self, name: str, index: Index, array: Array) -> None:
        """Write one piece; what fills no tile waits in memory for the rest of it."""
        entry = self._leaves[name]
        array = np.asarray(array)
        if array.dtype != entry.element:
            raise CheckpointError(
                name, f"is {entry.dtype}, but a piece is {array.dtype}", "convert it before"
            )
        for place in entry.format.tiles.touching(index) if array.size else ():
            where = entry.format.tiles.index(place)
            common = intersect(where, index)
            if common is None:
                continue
            part = array[within(common, index)]
            if covers(common, where):
                self._write_tile(entry, place, part)
            else:
                tile = self._collect(entry, place, within(common, where), part)
                if tile is not None:
                    self._write_tile(entry, place, tile)

    def put_value(self, name: str, value: Any) -> None:
        """Store a leaf that is no array."""
        encoded = encode_value(value)
        self._leaves[name] = LeafEntry(
            path=name,
            keys=_keys(name, {}),
            storage=Storage.VALUE,
            value=encoded,
            digest=value_digest(encoded),
        )

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Add to what it says of itself: step, mesh, plan, tree, and ``metadata`` of the user."""
        self._describe.update(metadata)

    def commit(self) -> None:
        """Make it durable and visible.

        Raises:
            CheckpointError: An array is not written in full.
        """
        leaves: list[LeafEntry] = []
        tables: list[bytes] = []
        for entry in self._leaves.values():
            if entry.has_files:
                entry, table = self._digest(entry)
                tables.append(table)
            leaves.append(entry)
        check_names(leaves)
        known = {k: self._describe.get(k) for k in ("step", "mesh", "plan")}
        manifest = Manifest(
            leaves=tuple(leaves),
            tree=self._tree(leaves),
            digest=tree_digest((leaf.path, leaf.digest) for leaf in leaves),
            metadata=dict(self._describe.get("metadata") or {}),
            writer=writer_versions(),
            created_unix_s=time.time(),
            **known,  # pyright: ignore[reportArgumentType]
        )
        with self._writing():
            text = self._describe.get("plan_file")
            if text is not None:
                self._writer.add_file(PLAN, text.encode())
            finish_checkpoint(
                self._writer, self.path, self._files, manifest=manifest, tiles=b"".join(tables)
            )
        self._over = True
        if self._journal is not None:
            with contextlib.suppress(OSError):  # it is of no use any more, and does no harm
                self._journal.remove()

    def abort(self) -> None:
        """Remove what was written."""
        if self._over:
            return
        self._over = True
        self._writer.close()
        if self._journal is not None:
            with contextlib.suppress(OSError):
                self._journal.remove()
        self._files.remove_tree_quietly(self._writer.root)

    def suspend(self) -> None:
        """Stop, and keep what is finished for a later sink with a journal."""
        if self._journal is None:
            self.abort()
        elif not self._over:
            self._over = True
            self._writer.close()
            try:
                with self._writing():
                    self._journal.flush()
            finally:
                self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _open_journal(self) -> None:
        staging = self._writer.root
        self._journal = Journal(staging, self._files)
        self._writer.written.update(self._journal.files())
        _clear(staging, self._files, keep=set(self._writer.written))

    def _write_tile(self, entry: LeafEntry, place: Shape, values: Array) -> None:
        layout = entry.format
        dense = np.ascontiguousarray(values).view(layout.dtype).reshape(values.shape)
        with self._writing():
            crc = self._writer.write(entry.directory, layout, place, dense)
            with self._lock:
                self._crcs[entry.path][layout.tiles.number(place)] = crc

    def _finished(
        self, directory: str, layout: ArrayFormat, file: Shape, crcs: Sequence[int]
    ) -> None:
        if self._journal is not None:
            numbers = map(layout.tiles.number, layout.tiles_of(file))
            name = f"{directory}/{layout.file_name(file)}"
            known = dict(zip(numbers, crcs, strict=True))
            self._journal.add(name, self._writer.written[name], directory, known)

    def _collect(self, entry: LeafEntry, place: Shape, where: Index, part: Array) -> Array | None:
        key = (entry.path, place)
        with self._lock:
            shape = tuple(s.stop - s.start for s in entry.format.tiles.index(place))
            tile, here = self._partial.pop(key, (None, 0))
            tile = np.empty(shape, entry.element) if tile is None else tile
            tile[where] = part
            here += part.size
            if here < math.prod(shape):
                self._partial[key] = (tile, here)
                return None
            return tile

    def _digest(self, entry: LeafEntry) -> tuple[LeafEntry, bytes]:
        crcs = self._crcs[entry.path]
        missing = [i for i in range(len(entry.format.tiles)) if i not in crcs]
        if missing:
            raise CheckpointError(
                entry.path,
                f"{len(missing)} of its {len(entry.format.tiles)} tiles are not written in full",
                "write every element before commit",
            )
        ordered = [crcs[i] for i in sorted(crcs)]
        digest = content_digest(entry.dtype, entry.shape, ordered)
        return replace(entry, digest=digest), np.array(ordered, "<u4").tobytes()

    def _tree(self, leaves: list[LeafEntry]) -> Mapping[str, Any]:
        given = self._describe.get("tree")
        if given is not None and _leaves_of(given) == {leaf.path for leaf in leaves}:
            return given
        return _nodes([(leaf.keys, leaf.path) for leaf in leaves])

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointWriteError(self.path, error.strerror or str(error)) from error


def _clear(staging: Path, files: Files, keep: set[str]) -> None:
    """Remove the files of an earlier attempt that were not finished."""
    for folder, _, names in os.walk(staging):
        for name in names:
            path = Path(folder, name)
            if path.relative_to(staging).as_posix() not in keep:
                files.remove_file(path)


def _entry(name: str, info: TensorInfo) -> LeafEntry:
    dtype, shape = np.dtype(info.dtype), tuple(info.shape)
    raw = dtype.name not in ORBAX_DTYPES
    if dtype.hasobject or dtype.names or (raw and dtype.itemsize not in (1, 2, 4, 8)):
        raise CheckpointLeafError(name, f"an array of dtype {dtype}")
    extra = info.attributes
    axes, spec = extra.get("logical_axes"), extra.get("spec")
    tile = canonical_tile(shape, dtype.itemsize)
    known: dict[str, Any] = {
        "path": name,
        "keys": _keys(name, extra),
        "dtype": dtype.name,
        "shape": shape,
        "role": info.role,
        "container": Container(extra.get("container", Container.JAX)),
        "weak_type": bool(extra.get("weak_type", False)),
        "prng_impl": extra.get("prng_impl"),
        "logical_axes": tuple(axes) if axes else None,
        "spec": tuple(tuple(dim) for dim in spec) if spec else None,
    }
    if info.size == 0:
        return LeafEntry(**known, storage=Storage.EMPTY, digest=f"{dtype.name}{list(shape)}")
    storage = Storage.RAW if raw else Storage.ARRAY
    block = file_block(shape, tile, dtype.itemsize, shape)
    return LeafEntry(**known, storage=storage, tile=tile, block=block)


def _keys(name: str, attributes: Mapping[str, Any]) -> tuple[Key, ...]:
    given = attributes.get("keys")
    if given:
        return tuple(Key(kind, text) for kind, text in given)
    return tuple(Key("d", part) for part in split_path(name))


def _leaves_of(nodes: Mapping[str, Any]) -> set[str]:
    if "leaf" in nodes:
        return {nodes["leaf"]}
    return set().union(*map(_leaves_of, nodes.get("children", ())))


def _nodes(leaves: list[tuple[tuple[Key, ...], str]]) -> dict[str, Any]:
    """Nested dicts and lists from the ways to the leaves."""
    if len(leaves) == 1 and not leaves[0][0]:
        return {"leaf": leaves[0][1]}
    groups: dict[Key, list[tuple[tuple[Key, ...], str]]] = {}
    for keys, path in leaves:
        groups.setdefault(keys[0], []).append((keys[1:], path))
    kind = "list" if groups and all(key.kind == "s" for key in groups) else "dict"
    return {
        "type": kind,
        "keys": [[key.kind, key.text] for key in groups],
        "children": [_nodes(inner) for inner in groups.values()],
    }


def create_sink(path: str | os.PathLike[str], *, journal: bool = False) -> NativeSink:
    """Begin a checkpoint that is written in pieces.

    Args:
        path: Where it will be.
        journal: Whether a later call may go on after this process died.

    Returns:
        A `TensorSink`; `commit` makes it visible.

    Raises:
        CheckpointExistsError: Something is at ``path``.
    """
    return NativeSink(path, journal=journal)
