"""Writing files whose arrays lie at places that follow from their shapes.

Everything is written below a temporary directory beside the destination, and renamed when it is
whole. With a journal, a sink of the same destination goes on where a killed one stopped.
"""

import contextlib
import fcntl
import json
import math
import os
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from autoshard.checkpoint._commit import absolute, require_free
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.checkpoint.layouts._boxes import blocks
from autoshard.checkpoint.layouts.formats._regions import Region, runs
from autoshard.errors import CheckpointExistsError, CheckpointWriteError, ConversionError

_BLOCKS_PER_SYNC = 8
"""Data are synced, and then told to the journal, whenever this many blocks were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """A file that is to be written.

    Args:
        name: Its path below the destination.
        nbytes: Its size.
        literals: Offset → bytes that stand there.
        regions: Tensor → where it lies.
    """

    name: str
    nbytes: int
    literals: Mapping[int, bytes]
    regions: Mapping[str, Region] = field(default_factory=dict[str, Region])


class RegionSink(ABC):
    """A `TensorSink` for formats with arrays at known places.

    All tensors are declared before the first is written.

    Args:
        path: The destination.
        journal: Keep what is finished when the process dies, for a later sink with a journal.
        block_bytes: Size of the pieces in which it is written best.

    Raises:
        CheckpointExistsError: Something is there.
        CheckpointWriteError: It cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, journal: bool = False, block_bytes: int = 8 << 20
    ) -> None:
        self.path = absolute(path)
        require_free(self.path)
        self.staging = self.path.with_name(f".{self.path.name}.autoshard-convert")
        self._files = Files()
        self._block_bytes = block_bytes
        self._infos: dict[str, TensorInfo] = {}
        self._metadata: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._regions: dict[str, Region] | None = None
        self._descriptors: dict[Path, int] = {}
        self._done: dict[str, dict[tuple[int, ...], int]] = {}
        self._written: dict[str, int] = {}
        self._unsynced: list[dict[str, Any]] = []
        self._unsynced_bytes = 0
        self._lock = threading.RLock()
        self._over = False
        with self._writing():
            if not journal:
                self._files.remove_tree(self.staging)
            self._files.make_parents(self.path)
            self._files.make_directory(self.staging, exist_ok=True)
            self._journal = self._open_journal()

    @abstractmethod
    def plan(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, Any]) -> list[FilePlan]:
        """The files, for these tensors."""

    def finish_file(self, plan: FilePlan, descriptor: int) -> None:
        """Completes a file whose tensors are written. Nothing to do, in most formats."""
        del plan, descriptor

    @property
    def single_file(self) -> bool:
        """Whether the destination is a file and not a directory."""
        return False

    def declare(self, name: str, info: TensorInfo) -> tuple[int, ...]:
        """Announces a tensor.

        Returns:
            The block in which it is written best.
        """
        if self._regions is not None:
            raise ConversionError(name, "is announced after the first piece", "declare all first")
        self._infos[name] = info
        return row_block(info.shape, info.dtype.itemsize, self._block_bytes)

    def describe(self, metadata: Mapping[str, Any]) -> None:
        """Adds to what it says of itself."""
        self._metadata.update(metadata)

    def put_value(self, name: str, value: Any) -> None:
        """Stores a leaf that is no tensor, where the format can.

        Raises:
            ConversionError: It cannot.
        """
        raise ConversionError(
            name, f"is {value!r}, no tensor, which this format cannot hold", "leave it out"
        )

    def pending(self, name: str) -> list[Index]:
        """The blocks of a tensor that are not on the disk yet."""
        self._prepare()
        info = self._infos[name]
        block = row_block(info.shape, info.dtype.itemsize, self._block_bytes)
        done = self._done.get(name, {})
        return [
            index
            for index in blocks(info.shape, block)
            if _key(index) not in done and 0 not in index_shape(index)
        ]

    def write(self, name: str, index: Index, array: np.ndarray[Any, Any]) -> None:
        """Writes one piece."""
        self._prepare()
        assert self._regions is not None
        region = self._regions[name]
        dense = np.ascontiguousarray(array, region.dtype).reshape(index_shape(index))
        view = dense.reshape(-1).view(np.uint8).data
        size = region.dtype.itemsize
        at = 0
        with self._writing():
            descriptor = self._descriptors[region.path]
            for first, count in runs(region.shape, index) if dense.size else ():
                part = view[at : at + count * size]
                offset = region.offset + first * size
                self._files.write_at(descriptor, part, offset, region.path)
                at += len(part)
            with self._lock:
                self._written[name] = self._written.get(name, 0) + dense.size
                self._note({"name": name, "index": _key(index), "crc": zlib.crc32(view)}, len(view))

    def commit(self) -> None:
        """Makes it durable and visible.

        Raises:
            ConversionError: A tensor is not written in full.
        """
        self._prepare()
        for name, info in self._infos.items():
            if (have := self._written.get(name, 0)) != info.size:
                raise ConversionError(
                    name, f"has {have} of {info.size} elements", "write every element before commit"
                )
        with self._writing():
            for plan in self._plans:
                path = self.staging / plan.name
                self.finish_file(plan, self._descriptors[path])
                self._files.sync(self._descriptors[path], path)
            self._close()
            self._publish()
        self._over = True

    def abort(self) -> None:
        """Removes what was written."""
        if not self._over:
            self._over = True
            self._close()
            self._files.remove_tree_quietly(self.staging)

    def suspend(self) -> None:
        """Stops, and keeps what is finished for a later sink with a journal."""
        if not self._over:
            with self._writing():
                self._flush()
            self._over = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _publish(self) -> None:
        journal = self.staging / _JOURNAL
        if self.single_file:
            (plan,) = self._plans
            # A link, for renaming would replace what another program has put there meanwhile.
            self._files.link(self.staging / plan.name, self.path)
            self._files.sync_path(self.path.parent)
            self._files.remove_tree_quietly(self.staging)
            return
        self._files.remove_file(journal)
        self._files.sync_path(self.staging)
        self._files.rename_directory(self.staging, self.path)

    def _prepare(self) -> None:
        """Lays out the files, once all tensors are known."""
        with self._lock:
            if self._regions is None:
                self._lay_out()

    def _lay_out(self) -> None:
        self._plans = self.plan(self._infos, self._metadata)
        regions = {
            name: Region(
                path=self.staging / plan.name,
                offset=region.offset,
                shape=region.shape,
                dtype=region.dtype,
            )
            for plan in self._plans
            for name, region in plan.regions.items()
        }
        with self._writing():
            for plan in self._plans:
                self._descriptors[self.staging / plan.name] = self._open(plan)
            self._regions = regions
            self._resume()

    def _open(self, plan: FilePlan) -> int:
        path = self.staging / plan.name
        if path.parent != self.staging:
            self._files.make_directories(path.parent, self.staging)
        if path.exists():
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        else:
            descriptor = self._files.create(path)
        # Space is taken now: a full disk is told before the work and not after it.
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, max(plan.nbytes, 1))
        os.truncate(descriptor, plan.nbytes)
        for offset, data in plan.literals.items():
            self._files.write_at(descriptor, memoryview(data), offset, path)
        return descriptor

    def _open_journal(self) -> int:
        path = self.staging / _JOURNAL
        if not path.exists():
            os.close(self._files.create(path))
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise CheckpointWriteError(self.path, "another process is writing it") from error
        return descriptor

    def _resume(self) -> None:
        """Takes over what the journal vouches for and the files still hold."""
        assert self._regions is not None
        whole = 0
        for line in os.pread(self._journal, os.fstat(self._journal).st_size, 0).splitlines(True):
            if not line.endswith(b"\n"):
                break  # the process died while it wrote this
            whole += len(line)
            entry = json.loads(line)
            name, key = entry["name"], tuple(entry["index"])
            region = self._regions.get(name)
            if region is None or key in self._done.get(name, {}):
                continue
            index = _index(key)
            if self._checksum(region, index) == entry["crc"]:
                self._done.setdefault(name, {})[key] = entry["crc"]
                self._written[name] = self._written.get(name, 0) + math.prod(index_shape(index))
        os.truncate(self._journal, whole)

    def _checksum(self, region: Region, index: Index) -> int:
        descriptor, size, crc = self._descriptors[region.path], region.dtype.itemsize, 0
        for first, count in runs(region.shape, index):
            for at in range(0, count * size, 1 << 20):
                n = min(1 << 20, count * size - at)
                crc = zlib.crc32(os.pread(descriptor, n, region.offset + first * size + at), crc)
        return crc

    def _note(self, entry: dict[str, Any], nbytes: int) -> None:
        self._unsynced.append(entry)
        self._unsynced_bytes += nbytes
        if self._unsynced_bytes >= _BLOCKS_PER_SYNC * self._block_bytes:
            self._flush()

    def _flush(self) -> None:
        if not self._unsynced:
            return
        assert self._regions is not None
        paths: Iterable[Path] = {self._regions[entry["name"]].path for entry in self._unsynced}
        for path in paths:
            self._files.sync(self._descriptors[path], path)
        lines = "".join(json.dumps(entry) + "\n" for entry in self._unsynced).encode()
        os.write(self._journal, lines)
        self._files.sync(self._journal, self.staging / _JOURNAL)
        self._unsynced.clear()
        self._unsynced_bytes = 0

    def _close(self) -> None:
        if self._journal < 0:
            return
        for descriptor in (*self._descriptors.values(), self._journal):
            os.close(descriptor)
        self._descriptors.clear()
        self._journal = -1

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            yield
        except FileExistsError as error:
            raise CheckpointExistsError(self.path) from error
        except OSError as error:
            raise CheckpointWriteError(self.path, error.strerror or str(error)) from error


_JOURNAL = "convert.journal"


def row_block(shape: tuple[int, ...], itemsize: int, nbytes: int) -> tuple[int, ...]:
    """The largest block of whole rows that lies in one stretch and takes at most so many bytes."""
    block = [1] * len(shape)
    inner = itemsize
    for dim in reversed(range(len(shape))):
        block[dim] = max(1, min(shape[dim], nbytes // max(inner, 1)))
        inner *= max(shape[dim], 1)
        if block[dim] < shape[dim]:
            break
    return tuple(block)


def _key(index: Index) -> tuple[int, ...]:
    return tuple(at for part in index for at in (part.start, part.stop))


def _index(key: tuple[int, ...]) -> Index:
    return tuple(slice(a, b) for a, b in zip(key[::2], key[1::2], strict=True))
