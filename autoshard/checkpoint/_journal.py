"""A journal of finished files, so that a long conversion goes on after it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoshard.checkpoint._io import Files
from autoshard.checkpoint._owner import journal_of
from autoshard.errors import CheckpointWriteError

_SYNCED_BYTES = 8 << 20  # what may have to be written again after a kill


class Journal:
    """The finished files of a temporary directory, one JSON line each, in a file beside it.

    Lines are written after their files are on the disk. One process at a time holds the journal.

    Args:
        staging: The temporary directory.
        files: How files are changed.

    Raises:
        CheckpointWriteError: Another process holds it.
    """

    def __init__(self, staging: Path, files: Files) -> None:
        self._staging = staging
        self._files = files
        self._path = journal_of(staging)
        if not self._path.exists():
            os.close(files.create(self._path))
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise CheckpointWriteError(staging, "another process is writing it") from error
        self._lines: list[dict[str, Any]] = []
        self._size = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # the process died while it wrote this
            self._size += len(line)
            found = json.loads(line)
            if self._is_there(found):
                self._lines.append(found)
        self._waiting: list[dict[str, Any]] = []
        self._waiting_bytes = 0
        self._lock = threading.Lock()

    def _is_there(self, line: Mapping[str, Any]) -> bool:
        try:
            return (self._staging / line["file"]).stat().st_size == line["bytes"]
        except FileNotFoundError:
            return False

    def files(self) -> dict[str, tuple[int, int]]:
        """Bytes and CRC-32C of the finished files."""
        return {line["file"]: (line["bytes"], line["crc"]) for line in self._lines}

    def crcs(self, directory: str) -> dict[int, int]:
        """Checksums of an array's finished tiles."""
        return {
            int(number): crc
            for line in self._lines
            if line["directory"] == directory
            for number, crc in line["tiles"].items()
        }

    def add(
        self, file: str, entry: tuple[int, int], directory: str, crcs: Mapping[int, int]
    ) -> None:
        """Remember a file that is whole. Files are synced together, and are known from then on.

        Args:
            file: Its path below the temporary directory.
            entry: Its bytes and CRC-32C.
            directory: Of the array that it belongs to.
            crcs: CRC-32C of its tiles' elements, by number.
        """
        record = {"file": file, "bytes": entry[0], "crc": entry[1], "directory": directory}
        with self._lock:
            self._waiting.append({**record, "tiles": dict(crcs)})
            self._waiting_bytes += entry[0]
            if self._waiting_bytes >= _SYNCED_BYTES:
                self._flush()

    def flush(self) -> None:
        """Have everything known that was added."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        paths = [self._staging / record["file"] for record in self._waiting]
        folders = {above for path in paths for above in (path.parent, *path.parents)}
        inside = [f for f in folders if f.is_relative_to(self._staging)]
        self._files.sync_all([*paths, *inside])
        data = "".join(json.dumps(record) + "\n" for record in self._waiting).encode()
        self._files.write_at(self._descriptor, memoryview(data), self._size, self._path)
        self._files.sync(self._descriptor, self._path)
        self._size += len(data)
        self._waiting.clear()
        self._waiting_bytes = 0

    def close(self) -> None:
        """Let go of it. What was added and not flushed will be written again."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove it: there is nothing to resume any more."""
        try:
            self._files.remove_file(self._path)
        finally:
            self.close()
