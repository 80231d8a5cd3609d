"""Many files as one long array of bytes."""

import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoshard.data._files import SkippedFile, standard_library, text_files
from autoshard.errors import DataError

Bytes = NDArray[np.uint8]

# Larger files are mapped and read page by page; smaller ones are copied together, because a map
# each would use up the process's file descriptors.
_MAPPED_FROM_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCorpus:
    """Text files laid end to end, one token per byte.

    Attributes:
        name: What the corpus is, for people.
        files: The files, in order.
        skipped: Files that were found but left out, each with its reason.
        segments: The bytes, in consecutive pieces, none of them empty.
    """

    name: str
    files: tuple[Path, ...]
    skipped: tuple[SkippedFile, ...]
    segments: tuple[Bytes, ...]
    _ends: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.segments:
            reasons = "".join(f"\n  {file.path}: {file.reason}" for file in self.skipped[:5])
            raise DataError(
                self.name, f"holds no text{reasons}", "name files that hold text: --data PATH"
            )
        ends = tuple(itertools.accumulate(len(segment) for segment in self.segments))
        object.__setattr__(self, "_ends", ends)

    @classmethod
    def from_paths(cls, paths: Sequence[str | os.PathLike[str]]) -> "ByteCorpus":
        """Opens text files, and those below directories.

        Args:
            paths: Files and directories, as for `text_files`.

        Raises:
            DataError: A path does not exist or cannot be read, or there is no text at all.
        """
        files, skipped = text_files(paths)
        return _open(", ".join(map(str, paths)) or "the list of paths", files, skipped)

    @classmethod
    def standard_library(cls, *, max_bytes: int = 32 * 2**20) -> "ByteCorpus":
        """Opens the Python sources of the running interpreter's standard library.

        Args:
            max_bytes: Files after the first that would exceed this total are left out, and
                listed in `skipped`.

        Raises:
            DataError: There are no sources.
        """
        files: list[Path] = []
        skipped: list[SkippedFile] = []
        total = 0
        for file in standard_library():
            total += file.stat().st_size
            if total > max_bytes:
                skipped.append(SkippedFile(file, f"beyond max_bytes={max_bytes}"))
            else:
                files.append(file)
        return _open("Python's standard library", files, skipped)

    def __len__(self) -> int:
        """Bytes in all."""
        return self._ends[-1]

    def read(self, start: int, length: int) -> Bytes:
        """Copies a window of the corpus.

        Args:
            start: First byte, from 0.
            length: Bytes to read; the window must lie inside the corpus.

        Returns:
            An array `[length]`.

        Raises:
            IndexError: The window reaches outside.
        """
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"bytes {start} to {start + length} of a corpus of {len(self)}")
        pieces: list[Bytes] = []
        index = bisect_right(self._ends, start)
        while length > 0:
            segment = self.segments[index]
            offset = start - (self._ends[index] - len(segment))
            pieces.append(segment[offset : offset + length])
            start, length, index = start + len(pieces[-1]), length - len(pieces[-1]), index + 1
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def _open(name: str, files: Iterable[Path], skipped: list[SkippedFile]) -> ByteCorpus:
    segments: list[Bytes] = []
    small: list[bytes] = []
    opened: list[Path] = []

    def flush() -> None:
        if joined := b"".join(small):
            segments.append(np.frombuffer(joined, np.uint8))
        small.clear()

    for file in files:
        try:
            if file.stat().st_size >= _MAPPED_FROM_BYTES:
                flush()
                segments.append(np.memmap(file, np.uint8, mode="r"))
            else:
                small.append(file.read_bytes())
            opened.append(file)
        except OSError as error:
            skipped.append(SkippedFile(file, error.strerror or type(error).__name__))
    flush()
    return ByteCorpus(
        name=name, files=tuple(opened), skipped=tuple(skipped), segments=tuple(segments)
    )
