"""Checking every byte of a checkpoint against what was in memory when it was saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoshard.checkpoint._checksums import content_digest, crc32c, tree_digest
from autoshard.checkpoint._commit import COMMIT, FILES, read_commit, read_files
from autoshard.checkpoint._manifest import LeafEntry
from autoshard.checkpoint._source import NativeSource
from autoshard.checkpoint._tiles import Grid, Shape
from autoshard.errors import CheckpointError, CorruptCheckpointError

_CHUNK_BYTES = 4 << 20
_THREADS = max(2, min(8, os.cpu_count() or 2))

Progress = Callable[[int], None]
"""Called with the number of bytes that were checked since the last call, from any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Args:
        path: The checkpoint.
        findings: What is wrong, one line each: leaf, tile and file where they are known.
        damaged: Files that are not what was committed, below the checkpoint.
        files: How many files were checked.
        nbytes: How many bytes.
    """

    path: Path
    findings: tuple[str, ...]
    damaged: tuple[str, ...]
    files: int
    nbytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def check(self) -> None:
        """Raise what was found.

        Raises:
            CorruptCheckpointError: Something is wrong.
        """
        if self.findings:
            raise CorruptCheckpointError(self.path, self.findings)


@dataclass(frozen=True, slots=True)
class _Finding:
    file: str
    text: str


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """Read a whole checkpoint and compare it with its checksums.

    Every byte of every file below ``path`` counts, and so does a file that does not belong there.

    Args:
        path: The checkpoint.
        progress: Told of the bytes as they are checked.

    Returns:
        What was found.

    Raises:
        CheckpointNotFoundError: Nothing is there.
        IncompleteCheckpointError: It was never committed.
    """
    path = Path(os.path.abspath(path))
    progress = progress or (lambda _: None)
    findings: list[_Finding] = []
    try:
        record = read_commit(path)
        table = read_files(path, record)
        source = NativeSource(path)
    except CorruptCheckpointError as error:
        files = [text.removeprefix("file ").partition(":")[0] for text in error.findings]
        return Report(path=path, findings=error.findings, damaged=tuple(files), files=0, nbytes=0)
    findings += _names(path, set(table) | {COMMIT, FILES})
    arrays = dict(array_files(source))
    plain = sorted(set(table) - set(arrays))

    def check(name: str) -> list[_Finding]:
        if name in arrays:
            return _check_tiles(source, name, *arrays[name], table[name], progress)
        return _check_file(path, name, table[name], progress)

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            # The table may lack a file only if the manifest and it contradict each other.
            known = [name for name in arrays if name in table]
            for found in pool.map(check, [*plain, *known]):
                findings += found
        if not findings:
            findings += _check_digests(source)
    except CorruptCheckpointError as error:
        findings += [_Finding("", text) for text in error.findings]
    except CheckpointError as error:  # it was removed meanwhile
        findings.append(_Finding("", error.problem))
    return Report(
        path=path,
        findings=tuple(f.text for f in findings),
        damaged=tuple(dict.fromkeys(f.file for f in findings if f.file)),
        files=len(table) + 2,
        nbytes=sum(size for size, _ in table.values()),
    )


def _names(path: Path, expected: set[str]) -> Iterator[_Finding]:
    """Files that are missing, and things that do not belong."""
    folders = {str(above) for name in expected for above in Path(name).parents}
    seen: set[str] = set()
    for folder, inner, files in os.walk(path):
        here = Path(folder).relative_to(path)
        for name in (*files, *inner):
            child = (here / name).as_posix()
            if (path / child).is_symlink():
                yield _Finding(child, f"file {child}: is a link; a checkpoint has none")
            elif name in files:
                seen.add(child)
                if child not in expected:
                    yield _Finding(child, f"file {child}: does not belong to the checkpoint")
            elif child not in folders:
                yield _Finding(child, f"directory {child}: does not belong to the checkpoint")
    for name in sorted(expected - seen):
        yield _Finding(name, f"file {name}: is missing")


def array_files(source: NativeSource) -> Iterator[tuple[str, tuple[LeafEntry, Shape]]]:
    """Every file of tiles, with its leaf and its place."""
    for leaf in source.manifest.leaves:
        if leaf.has_files:
            layout = leaf.format
            for number in range(len(layout.files)):
                file = layout.files.place(number)
                yield f"{leaf.directory}/{layout.file_name(file)}", (leaf, file)


def _check_file(
    path: Path, name: str, expected: tuple[int, int], progress: Progress
) -> list[_Finding]:
    crc = size = 0
    try:
        with open(path / name, "rb") as file:
            while data := file.read(_CHUNK_BYTES):
                crc, size = crc32c(data, crc), size + len(data)
                progress(len(data))
    except FileNotFoundError:
        return []  # found missing already
    except OSError as error:
        return [_Finding(name, f"file {name}: cannot be read ({error.strerror})")]
    if (size, crc) == expected:
        return []
    return [_Finding(name, f"file {name}: {_difference(size, expected[0])}")]


def _difference(size: int, expected: int) -> str:
    if size != expected:
        return f"has {size} bytes, was committed with {expected}"
    return "its checksum differs"


def _check_tiles(
    source: NativeSource,
    name: str,
    leaf: LeafEntry,
    file: Shape,
    expected: tuple[int, int],
    progress: Progress,
) -> list[_Finding]:
    """Every tile against its own checksum and the committed one, then what is behind them."""
    layout, path = leaf.format, source.path / name
    findings: list[_Finding] = []
    trailers: list[bytes] = []
    for place in layout.tiles_of(file):
        try:
            trailers.append(source.checked_tile(leaf, place)[1])
        except CorruptCheckpointError as error:
            findings += [_Finding(name, text) for text in error.findings]
        progress(layout.stored_bytes)
    try:
        size = path.stat().st_size
        with open(path, "rb") as opened:
            opened.seek(layout.offset(layout.present_tiles(file)))
            index = opened.read()
    except OSError:
        return findings  # each of its tiles has been told
    progress(len(index))
    if size != expected[0]:
        problem = _difference(size, expected[0])
    elif index != layout.index(file):
        problem = "the index of its tiles differs"
    elif not findings and layout.file_crc(trailers, index) != expected[1]:
        problem = "its checksums are not those that were committed"
    else:
        return findings
    tiles = f"{layout.present_tiles(file)} tiles from {list(next(layout.tiles_of(file)))}"
    return [*findings, _Finding(name, f"leaf {leaf.path}, {tiles}, file {name}: {problem}")]


def _check_digests(source: NativeSource) -> Iterator[_Finding]:
    """Whether checksums, digests and the content of arrays in other tiles agree."""
    for leaf in source.manifest.leaves:
        if not leaf.has_files:
            continue
        crcs = source.tile_crcs[leaf.path]
        if content_digest(leaf.dtype, leaf.shape, crcs.tolist()) != leaf.digest:
            yield _Finding("", f"leaf {leaf.path}: its digest is not that of its checksums")
        if leaf.tile != leaf.canonical:
            grid = Grid(leaf.shape, leaf.canonical)
            for number in range(len(grid)):
                index = grid.index(grid.place(number))
                values = np.ascontiguousarray(source.read(leaf.path, index))
                if crc32c(values) != int(crcs[number]):
                    yield _Finding("", f"leaf {leaf.path}, canonical tile {number}: differs")
    leaves = ((leaf.path, leaf.digest) for leaf in source.manifest.leaves)
    if tree_digest(leaves) != source.manifest.digest:
        yield _Finding("", "the digest of the tree is not that of its leaves")
