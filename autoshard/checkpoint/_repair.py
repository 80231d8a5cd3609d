"""Mending a damaged checkpoint: from itself where it can be made again, else from a copy."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoshard.checkpoint._checksums import crc32c
from autoshard.checkpoint._commit import COMMIT, FILES, MANIFEST, TILES, Commit, read_files
from autoshard.checkpoint._commit import read_commit as _read_commit
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._manifest import LeafEntry
from autoshard.checkpoint._save import small_files
from autoshard.checkpoint._sink import create_sink
from autoshard.checkpoint._source import NativeSource
from autoshard.checkpoint._tiles import Shape
from autoshard.checkpoint._verify import Report, array_files, verify
from autoshard.errors import CheckpointError, CorruptCheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair did.

    Args:
        mended: Files that are again what was committed.
        report: A check of everything afterwards.
    """

    mended: tuple[str, ...]
    report: Report


def repair(path: str | os.PathLike[str], copy: str | os.PathLike[str] | None = None) -> Repair:
    """Mend a damaged checkpoint in place.

    Orbax's metadata and all else that follows from the manifest is made again. Tiles come from a
    copy: another checkpoint whose leaf has the same digest, on whatever mesh and in whatever tiles
    it was saved. The manifest itself comes from a copy that is the same file by file. Each file is
    replaced only by one that has the committed checksum.

    Args:
        path: The checkpoint.
        copy: Another one with the same content.

    Returns:
        What was mended, and a new check.

    Raises:
        CheckpointError: There is no checkpoint, or nothing vouches for what it should be.
    """
    path, files = Path(os.path.abspath(path)), Files()
    other = None if copy is None else Path(os.path.abspath(copy))
    mended = list(_mend_sidecar(path, other, files))
    before = verify(path)
    if not before.ok:
        source = NativeSource(path)
        spare = None if other is None else NativeSource(other)
        table = read_files(path, _read_commit(path))
        arrays = dict(array_files(source))
        small = small_files(source.manifest)
        for name in before.damaged:
            if name not in table:
                continue  # it does not belong here; whoever put it there knows what it is
            if name in arrays:
                data = _tile_file(source, spare, *arrays[name])
            else:
                data = _plain_file(name, table[name], small, other)
            if data is not None:
                files.make_directories((path / name).parent, path)
                files.replace(path / name, data)
                mended.append(name)
    return Repair(mended=tuple(mended), report=verify(path))


def _mend_sidecar(path: Path, other: Path | None, files: Files) -> Iterator[str]:
    """Bring back the commit record and what it vouches for, from a copy that has the same."""
    if other is None:
        return
    theirs = _read_commit(other)
    with contextlib.suppress(CorruptCheckpointError):
        if _read_commit(path).sha256 != theirs.sha256:
            return  # a copy of the content at most: it cannot speak for these files
    for name in (MANIFEST, TILES, FILES, COMMIT):
        wanted = (other / name).read_bytes()
        found = (path / name).read_bytes() if (path / name).is_file() else None
        if found != wanted and _vouched(theirs, name, wanted):
            files.replace(path / name, wanted)
            yield name


def _vouched(record: Commit, name: str, data: bytes) -> bool:
    return name == COMMIT or hashlib.sha256(data).hexdigest() == record.sha256[name]


def _tile_file(
    source: NativeSource, spare: NativeSource | None, leaf: LeafEntry, file: Shape
) -> bytes | None:
    """A file of tiles, each whole one kept and each damaged one taken from the copy."""
    layout = leaf.format
    twin = None if spare is None else spare.manifest.by_path().get(leaf.path)
    usable = twin is not None and twin.digest == leaf.digest
    data = bytearray()
    for place in layout.tiles_of(file):
        try:
            values = source.tile(leaf, place)
        except CorruptCheckpointError:
            if not usable or spare is None:
                return None
            try:
                values = spare.read(leaf.path, layout.tiles.index(place))
            except CorruptCheckpointError:
                return None
        dense = np.ascontiguousarray(values).view(layout.dtype).reshape(values.shape)
        body, trailer, _ = layout.encode(place, dense)
        data += bytes(body) + trailer
    return bytes(data) + layout.index(file)


def _plain_file(
    name: str, expected: tuple[int, int], small: dict[str, bytes], other: Path | None
) -> bytes | None:
    candidates = [small[name]] if name in small else []
    if other is not None and (other / name).is_file():
        candidates.append((other / name).read_bytes())
    return next((c for c in candidates if (len(c), crc32c(c)) == expected), None)


def compact(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    journal: bool = True,
) -> str:
    """Write a checkpoint again, in the tiles and files that one process would have made.

    What many processes saved lies in as many pieces. Memory holds one tile at a time; a run that
    was killed goes on where it was.

    Args:
        path: The checkpoint.
        target: The new one.
        journal: Whether to be able to go on.

    Returns:
        The digest of the content: that of both.

    Raises:
        CorruptCheckpointError: The checkpoint is damaged.
        CheckpointExistsError: Something is at ``target``.
    """
    source = NativeSource(path)
    sink = create_sink(target, journal=journal)
    try:
        for name, info in source.tensors().items():
            sink.declare(name, info)
            for part in sink.pending(name):
                for index in sink.tiles(name, part):
                    sink.write(name, index, source.read(name, index))
        for name, value in source.values().items():
            sink.put_value(name, value)
        sink.describe(source.metadata())
        sink.commit()
    except BaseException:
        sink.suspend()
        raise
    found = NativeSource(target).manifest.digest
    if found != source.manifest.digest:
        raise CheckpointError(
            target, "its digest differs from that of its source", "autoshard ckpt verify both"
        )
    return found
