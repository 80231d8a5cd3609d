"""Parts of a save in which all processes succeed, or all fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from autoshard.checkpoint._commit import read_commit
from autoshard.checkpoint._processes import Group, LostPeerError
from autoshard.errors import CheckpointError, CheckpointPeerError, CheckpointWriteError


@contextlib.contextmanager
def agreed(group: Group, path: Path) -> Generator[None]:
    """Run a part of a save that must succeed in every process, or fail in every process."""
    error: BaseException | None = None
    try:
        yield
    except Exception as found:
        error = found
    with _reported(path):
        texts = group.gather(_text(error))
    if error is not None:
        raise _as_ours(error, path) from error
    for index, text in enumerate(texts):
        if text is not None:
            raise CheckpointWriteError(path, f"process {index} failed ({text})")


def by_leader(group: Group, path: Path, work: Callable[[], Any]) -> Any:
    """Run what one process does alone: its JSON result, or its error, in all. It waits for none."""
    error: BaseException | None = None
    result: Any = None
    if group.leads:
        try:
            result = work()
        except Exception as found:
            error = found
    with _reported(path):
        text, result = group.tell([_text(error), result])
    if error is not None:
        raise _as_ours(error, path) from error
    if text is not None:
        raise CheckpointWriteError(path, f"process 0 failed ({text})")
    return result


@contextlib.contextmanager
def _reported(path: Path) -> Generator[None]:
    """Turn the loss of a process into the error that users see."""
    try:
        yield
    except LostPeerError as lost:
        try:
            read_commit(path)
            committed = True  # there was nothing when this save began, so it is this save's
        except CheckpointError:
            committed = False
        raise CheckpointPeerError(path, lost.process, lost.reason, committed=committed) from lost


def _text(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def _as_ours(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, OSError):
        return CheckpointWriteError(path, error.strerror or str(error))
    return error
