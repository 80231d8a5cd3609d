"""From a temporary directory to a checkpoint: all of it becomes visible at once, or nothing does.

1. Everything is written into ``NAME.autoshard-tmp-OWNER`` beside the place, each file synced.
2. ``files.json`` lists every file with its size and CRC-32C; ``COMMIT`` holds the SHA-256 of the
   manifest, the checksums and ``files.json``, and of itself. It is written last.
3. Every directory is synced, the temporary one is renamed, and the parent is synced.

A reader takes a directory for a checkpoint only if ``COMMIT`` and what it vouches for agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshard.checkpoint._io import Files
from autoshard.checkpoint._manifest import SIDECAR, Manifest
from autoshard.checkpoint._owner import CONVERSION, TEMPORARY, at_work, new_token
from autoshard.errors import (
    CheckpointError,
    CheckpointExistsError,
    CheckpointNotFoundError,
    CheckpointRemovalError,
    CheckpointVersionError,
    CorruptCheckpointError,
    IncompleteCheckpointError,
)

MANIFEST = f"{SIDECAR}/manifest.json"
TILES = f"{SIDECAR}/tiles.crc32c"
FILES = f"{SIDECAR}/files.json"
COMMIT = f"{SIDECAR}/COMMIT"
PLAN = f"{SIDECAR}/plan.json"
_VOUCHED = (MANIFEST, TILES, FILES)
_TRASH = ".autoshard-trash-"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit record.

    Args:
        digest: Digest of the content.
        step: The training step, if any.
        sha256: Of the files that it vouches for.
    """

    digest: str
    step: int | None
    sha256: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """The content of ``COMMIT``: a line of JSON, and its SHA-256."""
        document = {"digest": self.digest, "step": self.step, "sha256": dict(self.sha256)}
        line = json.dumps(document).encode()
        return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Commit | None:
        """The reverse of `to_bytes`; None where the record contradicts itself."""
        line, _, rest = data.partition(b"\n")
        if rest != hashlib.sha256(line).hexdigest().encode() + b"\n":
            return None
        return cls(**json.loads(line))


def staging_of(path: Path, token: str) -> Path:
    """Where a checkpoint is written before it is one."""
    return path.with_name(f"{path.name}{TEMPORARY}{token}")


def absolute(path: str | os.PathLike[str]) -> Path:
    """An absolute path.

    Raises:
        CheckpointError: No file can have it.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise CheckpointError(repr(text), "is no path of a checkpoint", 'save("run/first", tree)')
    return Path(os.path.abspath(text))


def require_free(path: Path) -> None:
    """Make sure that a new checkpoint may be made somewhere.

    Args:
        path: Absolute.

    Raises:
        CheckpointExistsError: Something is there.
        CheckpointError: It would lie inside another checkpoint.
    """
    if os.path.lexists(path):
        empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        raise CheckpointExistsError(path, empty=empty)
    for above in (path, Path(os.path.realpath(path.parent), path.name)):
        for parent in above.parents:
            if os.path.isfile(parent / COMMIT):
                raise CheckpointError(
                    path,
                    f"would lie inside the checkpoint {parent}, which would then be damaged",
                    f"save elsewhere, such as {parent.with_name(path.name)}",
                )


def open_staging(path: Path, token: str, files: Files) -> Path:
    """Make the temporary directory.

    Raises:
        CheckpointExistsError: The place is taken.
        CheckpointError: It would lie inside another checkpoint.
    """
    require_free(path)
    files.make_parents(path)
    staging = staging_of(path, token)
    files.make_directory(staging)
    return staging


def seal(
    staging: Path,
    path: Path,
    files: Files,
    *,
    manifest: Manifest,
    tiles: bytes,
    written: Mapping[str, tuple[int, int]],
) -> None:
    """Vouch for everything in a temporary directory and give it its name.

    Args:
        staging: The temporary directory.
        path: The name.
        files: How files are changed.
        manifest: What the checkpoint holds.
        tiles: Checksums of all canonical tiles.
        written: Bytes and CRC-32C of every file written so far.

    Raises:
        CheckpointExistsError: The place was taken meanwhile.
    """
    from autoshard.checkpoint._checksums import crc32c

    table = dict(written)
    contents = {MANIFEST: manifest.to_bytes(), TILES: tiles}
    for name, data in contents.items():
        files.make_directories((staging / name).parent, staging)
        files.write_new(staging / name, data)
        table[name] = (len(data), crc32c(data))
    contents[FILES] = json.dumps({"files": dict(sorted(table.items()))}, indent=0).encode()
    files.write_new(staging / FILES, contents[FILES])
    sha256 = {name: hashlib.sha256(contents[name]).hexdigest() for name in _VOUCHED}
    record = Commit(manifest.digest, manifest.step, sha256)
    files.write_new(staging / COMMIT, record.to_bytes())
    files.sync_all(Path(folder) for folder, _, _ in os.walk(staging, topdown=False))
    if os.path.lexists(path):
        raise CheckpointExistsError(path)
    try:
        files.rename_directory(staging, path)
    except OSError as error:
        if os.path.lexists(path) and staging.exists():
            raise CheckpointExistsError(path) from error
        raise


def read_commit(path: Path) -> Commit:
    """The commit record of a checkpoint.

    Raises:
        CheckpointNotFoundError: Nothing is there.
        IncompleteCheckpointError: There is something without a commit record.
        CorruptCheckpointError: The record is damaged.
    """
    if not path.is_dir():
        near = sorted(p.name for p in path.parent.glob(f"{path.name[:4]}*") if p.is_dir())
        raise CheckpointNotFoundError(path, near)
    try:
        data = (path / COMMIT).read_bytes()
    except FileNotFoundError:
        if TEMPORARY in path.name:
            problem = "it is what an interrupted save left behind"
        else:
            problem = f"it has no {COMMIT}; autoshard ckpt import reads other formats"
        raise IncompleteCheckpointError(path, problem) from None
    record = Commit.from_bytes(data)
    if record is None:
        raise CorruptCheckpointError(path, [f"file {COMMIT}: the record contradicts itself"])
    return record


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint, checked against its commit record.

    Raises:
        CheckpointError: As `read_commit`; or the manifest is damaged.
    """
    record = read_commit(path)
    data = read_vouched(path, record, MANIFEST)
    try:
        return Manifest.from_bytes(data, path)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointVersionError):
            raise
        raise CheckpointVersionError(path, "unknown", 1) from error


def read_vouched(path: Path, record: Commit, name: str) -> bytes:
    """A file that the commit record vouches for.

    Raises:
        CorruptCheckpointError: It is missing, or not what was committed.
    """
    try:
        data = (path / name).read_bytes()
    except FileNotFoundError:
        raise CorruptCheckpointError(path, [f"file {name}: is missing"]) from None
    if hashlib.sha256(data).hexdigest() != record.sha256.get(name):
        raise CorruptCheckpointError(path, [f"file {name}: is not what was committed"])
    return data


def read_files(path: Path, record: Commit) -> dict[str, tuple[int, int]]:
    """Bytes and CRC-32C of every file, as committed."""
    document: dict[str, Any] = json.loads(read_vouched(path, record, FILES))
    return {name: (size, crc) for name, (size, crc) in document["files"].items()}


def is_leftover(path: Path) -> bool:
    """Whether a name is one that only what is under way, or was interrupted, has."""
    return any(mark in path.name for mark in (TEMPORARY, _TRASH, CONVERSION))


def leftovers(directory: Path) -> list[Path]:
    """What interrupted saves and removals left in a directory, those still running left out."""
    found: list[Path] = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        for mark in (TEMPORARY, _TRASH):
            if mark in path.name and not at_work(path, path.name.rpartition(mark)[2]):
                found.append(path)
        # A conversion notes what it converts; once its result is there, that says nothing more.
        target = path.name.removesuffix(CONVERSION)[1:]
        if path.name.endswith(CONVERSION) and os.path.lexists(directory / target):
            found.append(path)
    return found


def trash_of(path: Path) -> Path:
    """The name that a checkpoint takes while it is being removed."""
    return path.with_name(f"{path.name}{_TRASH}{new_token()}")


def remove(path: Path, files: Files) -> None:
    """Remove a checkpoint: at once it is none any more, whenever the removal is interrupted."""
    trash = trash_of(path)
    with removing(path):
        files.rename_directory(path, trash)
        files.remove_tree(trash)


@contextlib.contextmanager
def removing(path: Path) -> Generator[None]:
    """Tell of a removal that fails.

    Raises:
        CheckpointRemovalError: In place of what the file system says.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointRemovalError(path, error.strerror or str(error)) from error
