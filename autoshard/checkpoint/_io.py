"""Every change of the file system that a checkpoint makes, in one place.

Nothing else in this package creates, writes, syncs, renames or removes: so a test that watches here
sees each moment at which a crash could come.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

from autoshard.checkpoint._owner import TEMPORARY, new_token

_SYNCS_AT_ONCE = 32

Observer = Callable[[str, Path], None]
"""Called with the name of an operation and its path, just before it happens."""

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Observer) -> Generator[None]:
    """Let an observer see, or stop by raising, what `Files` made inside the block will do."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


class Files:
    """Changes files, each change announced to the observer of the moment this was made.

    It may be used from several threads.
    """

    def __init__(self) -> None:
        self._observe = _observer.get() or (lambda _operation, _path: None)

    def make_directory(self, path: Path, *, exist_ok: bool = False) -> None:
        """Make a directory whose parent is there."""
        if exist_ok and path.is_dir():
            return
        self._observe("mkdir", path)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not exist_ok or not path.is_dir():
                raise

    def make_directories(self, path: Path, below: Path) -> None:
        """Make a directory and those between it and ``below``, which is there."""
        missing = [path]
        while missing[-1].parent != below and not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            self.make_directory(directory, exist_ok=True)

    def make_parents(self, path: Path) -> None:
        """Make the directories above a path, durably."""
        missing: list[Path] = []
        above = path.parent
        while not above.is_dir():
            if os.path.lexists(above):
                raise NotADirectoryError(errno.ENOTDIR, f"{above} is no directory")
            missing.append(above)
            above = above.parent
        for directory in reversed(missing):
            self.make_directory(directory, exist_ok=True)
            self.sync_path(directory.parent)

    def create(self, path: Path) -> int:
        """Make a new file; the caller closes the descriptor."""
        self._observe("create", path)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write_at(self, descriptor: int, data: memoryview, offset: int, path: Path) -> None:
        """Write all of some bytes at an offset."""
        self._observe("write", path)
        while len(data):
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    def sync(self, descriptor: int, path: Path) -> None:
        """Wait until a file is on the disk."""
        self._observe("fsync", path)
        os.fsync(descriptor)

    def write_new(self, path: Path, data: bytes, *, sync: bool = True) -> None:
        """Make a file with a content.

        Args:
            path: Its path.
            data: Its content.
            sync: Whether the content is on the disk when this returns. Its name may not be yet.
        """
        descriptor = self.create(path)
        try:
            self.write_at(descriptor, memoryview(data), 0, path)
            if sync:
                self.sync(descriptor, path)
        finally:
            os.close(descriptor)

    def sync_all(self, paths: Iterable[Path]) -> None:
        """Wait until files and directories are on the disk.

        Many at once: a file system that keeps a journal writes it once for all that wait.
        """
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
            for _ in pool.map(self.sync_path, paths):
                pass

    def replace(self, path: Path, data: bytes) -> None:
        """Give a file a content, old or new but never a mixture, durably."""
        temporary = path.with_name(f".{path.name}{TEMPORARY}{new_token()}")
        try:
            self.write_new(temporary, data)
            self._observe("rename", path)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self.sync_path(path.parent)

    def sync_path(self, path: Path) -> None:
        """Wait until a file, or the names in a directory, are on the disk."""
        self._observe("fsync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename_directory(self, source: Path, target: Path) -> None:
        """Rename a directory, durably. It replaces nothing but an empty directory.

        Raises:
            OSError: The target is a file or a directory with something in it.
        """
        self._observe("rename", target)
        os.rename(source, target)
        self.sync_path(target.parent)
        if source.parent != target.parent:
            self.sync_path(source.parent)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. It replaces nothing.

        Raises:
            FileExistsError: The name is taken.
        """
        self._observe("link", target)
        os.link(source, target)

    def remove_file(self, path: Path) -> None:
        """Remove a file."""
        self._observe("unlink", path)
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all that is in it, if it is there.

        Each name is announced; what cannot be removed raises.
        """
        if not os.path.lexists(path):
            return
        for folder, folders, files in os.walk(path, topdown=False):
            for name in files:
                self.remove_file(Path(folder, name))
            for name in folders:
                child = Path(folder, name)
                if child.is_symlink():
                    self.remove_file(child)
                else:
                    self._observe("rmdir", child)
                    os.rmdir(child)
        self._observe("rmdir", path)
        os.rmdir(path)

    def remove_tree_quietly(self, path: Path) -> None:
        """Remove what can be removed of a directory, after a failure that is reported already."""
        with contextlib.suppress(OSError):
            self._observe("rmtree", path)
        shutil.rmtree(path, ignore_errors=True)
