"""A directory of checkpoints, one per step: which are there, and which may go."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoshard.checkpoint._commit import (
    COMMIT,
    is_leftover,
    leftovers,
    read_commit,
    read_manifest,
    remove,
    removing,
)
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._manifest import SIDECAR
from autoshard.checkpoint._policies import KeepPolicy
from autoshard.checkpoint._verify import Progress, Report, verify
from autoshard.errors import CheckpointError, CheckpointNotFoundError, IncompleteCheckpointError

LATEST = "LATEST.json"
VERIFIED = "VERIFIED.json"
_STEP = re.compile(r"step_(\d{8,})")


def step_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return directory / f"step_{step:08d}"


def committed_steps(directory: str | os.PathLike[str]) -> dict[int, Path]:
    """The steps whose checkpoints are committed, with an intact commit record, in order."""
    directory = Path(directory)
    found: dict[int, Path] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _STEP.fullmatch(path.name)
        if match is not None:
            with contextlib.suppress(CheckpointError):
                read_commit(path)
                found[int(match[1])] = path
    return dict(sorted(found.items()))


def latest(directory: str | os.PathLike[str]) -> Path | None:
    """The newest committed checkpoint of a directory.

    Temporary directories, checkpoints without a commit record, and those whose manifest is damaged
    are passed over; `verify` says whether the arrays are whole too.

    Args:
        directory: Where a `Checkpointer` saves.

    Returns:
        Its path; None where there is none.
    """
    for path in reversed(committed_steps(directory).values()):
        with contextlib.suppress(CheckpointError):
            read_manifest(path)
            return path
    return None


def note_latest(directory: Path, step: int, files: Files) -> None:
    """Leave a hint for people and scripts; `latest` does not rely on it."""
    data = json.dumps({"step": step, "path": step_path(directory, step).name}).encode()
    _hint(directory / LATEST, data + b"\n", files)


def verified_steps(directory: Path) -> dict[int, str]:
    """Steps that were verified once, with the digest that they had."""
    try:
        found = json.loads((directory / VERIFIED).read_bytes())
        return {int(step): str(digest) for step, digest in found.items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}  # a hint that is lost costs another verification


def note_verified(directory: Path, step: int, digest: str, files: Files) -> None:
    """Remember that a step was verified."""
    known = {**verified_steps(directory), step: digest}
    there = committed_steps(directory)
    kept = {str(s): d for s, d in sorted(known.items()) if s in there}
    _hint(directory / VERIFIED, json.dumps(kept).encode() + b"\n", files)


def _hint(path: Path, data: bytes, files: Files) -> None:
    """Write what is of use only: a directory that cannot be written to is no failure."""
    with contextlib.suppress(OSError):
        files.replace(path, data)


def metrics_of(path: Path) -> Mapping[str, float]:
    """The metrics that a checkpoint was saved with."""
    with contextlib.suppress(CheckpointError):
        return read_manifest(path).metadata.get("metrics") or {}
    return {}


def prune(
    directory: str | os.PathLike[str], policy: KeepPolicy, *, dry_run: bool = False
) -> list[Path]:
    """Remove what a policy does not keep, and what interrupted saves left behind.

    The newest checkpoint that was verified stays, whatever the policy says. Where none was, the
    newest are verified until one is whole; without a whole one nothing is removed.

    Args:
        directory: Where a `Checkpointer` saves.
        policy: What to keep.
        dry_run: Only say what would be removed.

    Returns:
        What was removed.
    """
    directory, files = Path(directory), Files()
    steps = committed_steps(directory)
    metrics = {s: metrics_of(p) for s, p in steps.items()} if policy.best else {}
    kept = policy.keep(list(steps), metrics)
    gone: list[Path] = []
    if len(kept) < len(steps):
        safe = _newest_verified(directory, steps, files, dry_run=dry_run)
        if safe is not None:
            gone = [path for step, path in steps.items() if step not in kept | {safe}]
    stale = leftovers(directory)
    if not dry_run:
        for path in gone:
            remove(path, files)
        for path in stale:
            with removing(path):
                if path.is_dir():
                    files.remove_tree(path)
                else:
                    files.remove_file(path)
    return [*gone, *stale]


def _newest_verified(
    directory: Path, steps: Mapping[int, Path], files: Files, *, dry_run: bool
) -> int | None:
    known = verified_steps(directory)
    for step in sorted(steps, reverse=True):
        digest = read_commit(steps[step]).digest
        if known.get(step) == digest:
            return step
        if verify(steps[step]).ok:
            if not dry_run:
                note_verified(directory, step, digest, files)
            return step
    return None


def scrub(directory: str | os.PathLike[str], *, progress: Progress | None = None) -> list[Report]:
    """Verify every committed checkpoint of a directory, and remember those that are whole.

    Args:
        directory: Where a `Checkpointer` saves.
        progress: Told of the bytes as they are checked.

    Returns:
        One report per checkpoint, the oldest first.
    """
    directory, files = Path(directory), Files()
    reports: list[Report] = []
    for step, path in committed_steps(directory).items():
        report = verify(path, progress=progress)
        reports.append(report)
        if report.ok:
            note_verified(directory, step, read_commit(path).digest, files)
    return reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of a directory of checkpoints.

    Args:
        name: Of the entry.
        state: ``verified``, ``committed``, ``damaged``, ``incomplete``, or ``left over``.
        step: Its training step, if known.
        nbytes: Bytes of its arrays.
        leaves: How many leaves it has.
        mesh: The mesh that it was saved from.
        digest: Digest of its content.
        created_unix_s: When it was saved.
    """

    name: str
    state: str
    step: int | None = None
    nbytes: int | None = None
    leaves: int | None = None
    mesh: Mapping[str, int] | None = None
    digest: str | None = None
    created_unix_s: float | None = None


def overview(directory: str | os.PathLike[str]) -> list[Row]:
    """What is in a directory of checkpoints, or the one checkpoint that it is.

    Args:
        directory: The directory.

    Returns:
        Rows by step; what interrupted saves left comes last.

    Raises:
        CheckpointNotFoundError: There is no such directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointNotFoundError(directory)
    if (directory / COMMIT).exists():
        return [_row(directory, {})]
    verified = verified_steps(directory)
    rows: list[Row] = []
    for path in sorted(directory.iterdir()):
        if is_leftover(path):
            rows.append(Row(name=path.name, state="left over"))
        elif (path / SIDECAR).is_dir() or _STEP.fullmatch(path.name):
            rows.append(_row(path, verified))
    return sorted(rows, key=lambda row: (row.step is None, row.step or 0, row.name))


def _row(path: Path, verified: Mapping[int, str]) -> Row:
    try:
        found = read_manifest(path)
    except IncompleteCheckpointError:
        return Row(name=path.name, state="incomplete")
    except CheckpointError:
        return Row(name=path.name, state="damaged")
    known = found.step is not None and verified.get(found.step) == found.digest
    return Row(
        name=path.name,
        state="verified" if known else "committed",
        step=found.step,
        nbytes=found.nbytes,
        leaves=len(found.leaves),
        mesh=found.mesh,
        digest=found.digest,
        created_unix_s=found.created_unix_s,
    )
