"""Whose a temporary directory is, and whether its owner is still at work."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import secrets
import time
from pathlib import Path

TEMPORARY = ".autoshard-tmp-"
"""Stands before the token, in names of what is not finished."""

CONVERSION = ".autoshard-convert.json"
"""Ends the name of the file that says which conversion unfinished files are of."""

JOURNAL = "journal"
"""The token of work that goes on after its process died; a lock tells whether it is under way."""

_KEPT_S = 24 * 3600.0  # what may belong to another machine, or be taken up again


def new_token() -> str:
    """Names one attempt to save: which process leads it, on which machine, and which attempt."""
    return f"{os.getpid()}-{_machine()}-{secrets.token_hex(4)}"


def journal_of(staging: Path) -> Path:
    """The file that lists what is finished in a temporary directory."""
    return staging.with_name(f"{staging.name}.jsonl")


def at_work(path: Path, token: str) -> bool:
    """Whether somebody may still need a temporary directory or file.

    Of a process on this machine that can be asked. What is of another machine stays for a day, and
    so does a conversion that was interrupted, which the same command takes up again.

    Args:
        path: The directory or file.
        token: What its name ends with.
    """
    try:
        recent = time.time() - path.stat().st_mtime < _KEPT_S
    except FileNotFoundError:
        return False
    name = token.partition(".")[0]
    if name == JOURNAL:
        staging = path.with_name(path.name.removesuffix(".jsonl"))
        return _locked(journal_of(staging)) or (recent and staging.is_dir())
    pid, _, rest = name.partition("-")
    if not pid.isdigit() or not recent:
        return False
    return _runs(int(pid)) if rest.partition("-")[0] == _machine() else True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@functools.cache
def _machine() -> str:
    """Tells apart where process ids mean something else: hosts, their starts, containers."""
    known = [platform.node()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            known.append(read())
        except OSError:
            continue  # not Linux
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:8]
