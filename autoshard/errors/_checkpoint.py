"""Errors about checkpoints: places, trees, damage, and targets that do not fit."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoshard.errors._base import AutoshardError, ExitCode

_MOST_LINES = 17  # with the first line and the hint, an error stays within twenty


class CheckpointError(AutoshardError):
    """Something about a checkpoint; catch this to catch all of them.

    Args:
        subject: The path or quantity that the problem is about.
        problem: What is wrong with it.
        hint: One line that mends it.
    """

    def __init__(self, subject: object, problem: str, hint: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(f"{subject}: {problem}.\nMend it: {hint}")


class CheckpointExistsError(CheckpointError):
    """The place of a new checkpoint is taken: nothing is ever overwritten.

    Args:
        path: The place.
        empty: Whether what is there is an empty directory.
    """

    def __init__(self, path: Path, *, empty: bool = False) -> None:
        what = " (an empty directory)" if empty else ""
        super().__init__(
            path,
            f"is there already{what}, and a checkpoint never overwrites anything",
            f"rmdir {shlex.quote(str(path))}, or save elsewhere" if empty else "save elsewhere",
        )


class CheckpointNotFoundError(CheckpointError):
    """There is no checkpoint where one is looked for.

    Args:
        path: Where.
        candidates: Checkpoints nearby.
    """

    def __init__(self, path: Path, candidates: Sequence[str] = ()) -> None:
        self.candidates = tuple(candidates)
        near = f"; there are {', '.join(candidates[-5:])}" if candidates else ""
        super().__init__(path, f"no checkpoint is there{near}", "autoshard ckpt ls DIRECTORY")


class IncompleteCheckpointError(CheckpointError):
    """A checkpoint whose commit record is missing: its save never finished.

    Args:
        path: The checkpoint.
        problem: What is missing.
    """

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            path,
            f"is no committed checkpoint: {problem}",
            "load another step; autoshard ckpt ls DIRECTORY lists those that are whole",
        )


class CorruptCheckpointError(CheckpointError):
    """Bytes that are not those that were written.

    Args:
        path: The checkpoint.
        findings: One line each: leaf, tile and file where they are known.
    """

    exit_code = ExitCode.CORRUPT_DATA

    def __init__(self, path: Path, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        lines = [f"\n  {line}" for line in self.findings[:_MOST_LINES]]
        if len(self.findings) > _MOST_LINES:
            lines.append(f"\n  … and {len(self.findings) - _MOST_LINES} more")
        super().__init__(
            path,
            f"is damaged:{''.join(lines)}",
            "load an older step, or autoshard ckpt repair PATH --from COPY",
        )


class CheckpointVersionError(CheckpointError):
    """A checkpoint of a version of the format that this program does not know.

    Args:
        path: The checkpoint.
        found: Its version.
        known: The newest version that can be read.
    """

    def __init__(self, path: Path, found: object, known: int) -> None:
        self.found = found
        super().__init__(
            path,
            f"has version {found!r} of the format; this autoshard reads up to {known}",
            "pip install --upgrade autoshard",
        )


class CheckpointKeyError(CheckpointError):
    """Two leaves that would be stored under one name, or a name that cannot be stored.

    Args:
        names: The leaves.
        problem: What is wrong with them.
    """

    def __init__(self, names: Sequence[str], problem: str) -> None:
        self.names = tuple(names)
        super().__init__(
            " and ".join(map(repr, names)),
            problem,
            "rename a key of the tree; nothing has been written",
        )


class CheckpointLeafError(CheckpointError):
    """A leaf that no checkpoint can hold.

    Args:
        path: Its path.
        kind: What it is.
    """

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(
            path,
            f"{kind} cannot be stored; arrays, PRNG keys, numbers, strings, bytes and None can",
            "take it out of the tree, or make it an array; nothing has been written",
        )


class CheckpointWriteError(CheckpointError):
    """A save that could not be finished. Earlier checkpoints are untouched.

    Args:
        path: The checkpoint that was to be.
        reason: Why.
    """

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            path,
            f"could not be saved: {reason}; earlier checkpoints are untouched",
            "free space or permit writing there, then save again",
        )


class CheckpointPeerError(CheckpointWriteError):
    """A save that another process of the cluster left: it died, or did not come.

    Args:
        path: The checkpoint that was to be.
        process: Which process, by its index in the cluster.
        problem: How that is known.
        committed: Whether the checkpoint is there all the same: it was the process's last deed.
    """

    def __init__(self, path: Path, process: int, problem: str, *, committed: bool = False) -> None:
        self.process = process
        self.committed = committed
        self.reason = f"process {process} {problem}"
        what = "is saved, but" if committed else "could not be saved:"
        CheckpointError.__init__(
            self,
            path,
            f"{what} {self.reason}; earlier checkpoints are untouched",
            "start all processes again and resume from the newest checkpoint; peer_timeout_s=60 "
            "waits longer for a slow one",
        )


class CheckpointRemovalError(CheckpointError):
    """A checkpoint, or what an interrupted save left, that could not be removed in full.

    Args:
        path: What was to be removed.
        reason: Why it could not.
    """

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            path,
            f"could not be removed: {reason}; what is left of it is no checkpoint any more, or all "
            "of it is there still",
            "permit writing there, then autoshard ckpt prune DIRECTORY",
        )


class CheckpointMismatchError(CheckpointError):
    """A checkpoint and the tree it is to be loaded into disagree.

    Args:
        path: The checkpoint.
        missing: Leaves that the target wants and the checkpoint lacks.
        extra: Leaves that the checkpoint has and the target lacks.
        differing: Leaf → how shape or dtype differ.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(
        self,
        path: Path,
        missing: Sequence[str],
        extra: Sequence[str],
        differing: Mapping[str, str],
    ) -> None:
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.differing = dict(differing)
        lines = [_missing(name, extra) for name in missing]
        lines += [f"differs  {name}: {how}" for name, how in differing.items()]
        lines += [f"extra    {name}: the checkpoint has it, the target does not" for name in extra]
        shown = [f"\n  {line}" for line in lines[:_MOST_LINES]]
        if len(lines) > _MOST_LINES:
            shown.append(f"\n  … and {len(lines) - _MOST_LINES} more")
        super().__init__(path, f"does not fit the target:{''.join(shown)}", self._hint())

    def _hint(self) -> str:
        if self.missing:
            return "load into the tree that was saved (autoshard ckpt show PATH)"
        if self.extra and not self.differing:
            return "partial=True loads only what the target has"
        if all(how.startswith("sharding") for how in self.differing.values()):
            return 'mesh="data=8" keeps the saved specs as far as they divide; or choose another'
        if any("dtype" in how for how in self.differing.values()):
            return 'cast={"params/*": "bfloat16"} converts on purpose (paths as above)'
        return "load into the tree that was saved (autoshard ckpt show PATH)"


def _missing(name: str, extra: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, extra, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"missing  {name}: the target wants it, the checkpoint lacks it{hint}"
