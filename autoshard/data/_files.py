"""Which files make up a corpus, in an order that is the same everywhere."""

import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from autoshard.errors import DataError

_SNIFFED_BYTES = 8192


class SkippedFile(NamedTuple):
    """A file that was found but left out.

    Attributes:
        path: The file.
        reason: Why, in a few words.
    """

    path: Path
    reason: str


def text_files(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[list[Path], list[SkippedFile]]:
    """Lists the text files among and below the given paths.

    A path that is a file is taken as it is. Below a directory, hidden entries are passed over, and
    so are files that hold a NUL byte near their start: they are no text.

    Args:
        paths: Files and directories; the order of the paths is kept, a directory's files are
            sorted by path.

    Returns:
        The files, and those that were left out.

    Raises:
        DataError: A path does not exist.
    """
    files: list[Path] = []
    skipped: list[SkippedFile] = []
    for path in map(Path, paths):
        if path.is_dir():
            for file in _walk(path, lambda name: not name.startswith(".")):
                reason = _why_not_text(file)
                if reason:
                    skipped.append(SkippedFile(file, reason))
                else:
                    files.append(file)
        elif path.exists():
            files.append(path)
        else:
            raise DataError(path, "no such file or directory", "give the path of a text file")
    return files, skipped


def standard_library() -> list[Path]:
    """Lists the Python sources of the running interpreter's standard library.

    Tests, installed packages and caches are left out: what remains is some ten megabytes of
    text that every machine with Python has.

    Raises:
        DataError: The library's sources are not there, as in some trimmed installations.
    """
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [
        file for file in _walk(root, lambda name: name not in left_out) if file.suffix == ".py"
    ]
    if not files:
        raise DataError(root, "holds no Python sources", "name text files: --data PATH")
    return files


def _walk(root: Path, keep: Callable[[str], bool]) -> Iterator[Path]:
    """Files below `root`, depth first, each directory's entries sorted; links are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(filter(keep, folders))
        for name in sorted(filter(keep, names)):
            file = Path(folder, name)
            if file.is_file():
                yield file


def _why_not_text(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return "binary" if b"\0" in stream.read(_SNIFFED_BYTES) else None
    except OSError as error:
        return error.strerror or type(error).__name__
