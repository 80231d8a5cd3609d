"""Writing files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text so that a reader, or a crash, never meets half of it.

    The text goes to a new file beside the target, to the disk, and then under its name. Processes
    that write the same path at once do not mix: the last one's text stays.

    Args:
        path: The file. What is there is replaced.
        text: Its new content.

    Raises:
        OSError: It cannot be written; what was there is unchanged.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        # Not tempfile: its files are for their owner alone, whatever the umask says.
        with open(part, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
