"""A directory of checkpoints, one per step: which are there, and which may go."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from autoshard.checkpoint._commit import leftovers, read_commit, read_manifest, remove
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._policies import KeepPolicy
from autoshard.checkpoint._verify import verify
from autoshard.errors import CheckpointError

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
    files.replace(directory / LATEST, data + b"\n")


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
    files.replace(directory / VERIFIED, json.dumps(kept).encode() + b"\n")


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
