"""Saving a tree, from one process or several."""

from __future__ import annotations

import base64
import json
import math
import operator
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._agree import agreed, by_leader
from autoshard.checkpoint._checksums import combine_masked, content_digest, crc32c, tree_digest
from autoshard.checkpoint._commit import PLAN, absolute, open_staging, seal, staging_of
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._manifest import LeafEntry, Manifest
from autoshard.checkpoint._orbax import metadata_files
from autoshard.checkpoint._owner import new_token
from autoshard.checkpoint._plans import plan_file, plan_summary
from autoshard.checkpoint._processes import PEER_TIMEOUT_S, Group
from autoshard.checkpoint._snapshot import Pieces, Snapshot, take_snapshot
from autoshard.checkpoint._tensors import index_shape
from autoshard.checkpoint._tiles import Grid, Shape
from autoshard.checkpoint._values import decode_value, orbax_scalar
from autoshard.checkpoint._writer import TileWriter
from autoshard.checkpoint._zarr import ArrayFormat
from autoshard.errors import CheckpointError
from autoshard.plan import Plan

_THREADS = max(2, min(8, os.cpu_count() or 2))

RECORD = np.dtype([("leaf", "<u4"), ("tile", "<u8"), ("crc", "<u4"), ("elements", "<u8")])
"""The checksum of what one process has of a canonical tile; no elements: a copy, to compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One save, ready to run in any thread.

    Args:
        path: Where to.
        snapshot: What.
        group: Who takes part.
        files: How files are changed.
        describe: Fields of the manifest that the caller knows.
        plan: The plan that travels along, as a file.
        threads: How many tiles are written at once.
    """

    path: Path
    snapshot: Snapshot
    group: Group
    files: Files
    describe: Mapping[str, Any]
    plan: bytes | None = None
    threads: int = _THREADS


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    plan: Plan | None = None,
    metadata: Mapping[str, Any] | None = None,
    peer_timeout_s: float = PEER_TIMEOUT_S,
) -> Manifest:
    """Save a tree of arrays as the directory ``path``.

    Under `jax.distributed` all processes call it, and each writes the shards that it owns.

    Args:
        path: A place where nothing is; nothing is ever overwritten.
        tree: Arrays of jax or numpy, PRNG keys, numbers, strings, bytes and None, in any pytree.
        step: The training step that it belongs to.
        plan: The plan of the function that it is the state of; it travels along.
        metadata: What else to keep, as JSON values.
        peer_timeout_s: How long another process may give no sign of life before the save fails.

    Returns:
        What was saved. Its ``digest`` is the same on whatever mesh the arrays lay.

    Raises:
        CheckpointExistsError: Something is at ``path``.
        CheckpointKeyError: Two leaves would be stored under one name. Nothing was written.
        CheckpointLeafError: A leaf cannot be stored. Nothing was written.
        CheckpointWriteError: The disk is full, or another process failed.
        CheckpointPeerError: Another process died, or did not come.
    """
    with Group(peer_timeout_s) as group:
        request = make_request(path, tree, group, step=step, plan=plan, metadata=metadata)
        return run_save(request)


def make_request(
    path: str | os.PathLike[str],
    tree: Any,
    group: Group,
    *,
    step: int | None,
    plan: Plan | None,
    metadata: Mapping[str, Any] | None,
) -> Request:
    """Everything about a save that touches arrays, none of which it copies."""
    describe = {
        "step": None if step is None else step_number(step),
        "plan": None if plan is None else plan_summary(plan),
        "metadata": plain_json("metadata", dict(metadata or {})),
        "processes": group.count,
    }
    snapshot = take_snapshot(tree, processes=group.count)
    return Request(
        path=absolute(path),
        snapshot=snapshot,
        group=group,
        files=Files(),
        describe=describe,
        plan=None if plan is None else plan_file(plan),
    )


def step_number(step: Any) -> int:
    """A count of steps as an integer of Python's.

    Raises:
        CheckpointError: It is none.
    """
    try:
        found = operator.index(step)
    except TypeError:
        found = -1
    if found < 0:
        raise CheckpointError(f"step={step!r}", "is no count of steps done", "step=100")
    return found


def plain_json(name: str, value: Any) -> Any:
    """What of a value comes back from a file, which must be all of it; a tuple may become a list.

    Raises:
        CheckpointError: JSON cannot hold it.
    """
    problem = None
    if isinstance(value, dict):
        problem = next((f"the key {key!r} is no text" for key in value if type(key) is not str), "")
        if not problem:
            return {key: plain_json(f"{name}[{key!r}]", inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        return [plain_json(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    elif value is not None and type(value) not in (bool, int, float, str):
        problem = f"a {type(value).__name__} is no JSON"
    if problem:
        raise CheckpointError(name, problem, 'metadata={"note": "text", "loss": float(loss)}')
    return value


def run_save(request: Request) -> Manifest:
    """Write and commit."""
    group, path = request.group, request.path
    with agreed(group, path):
        token = new_token()
    token = by_leader(group, path, lambda: token if open_staging(path, token, request.files) else 0)
    staging = staging_of(path, str(token))
    writer = TileWriter(staging, request.files)
    manifest: list[Manifest] = []

    def finish() -> str:
        manifest.append(_finish(request, writer, records))
        return manifest[0].digest

    try:
        with agreed(group, path):
            records = write_leaves(
                request.snapshot, writer, leads=group.leads, threads=request.threads
            )
            if group.count > 1:
                _leave_note(request.files, writer, group.index, records)
        digest = by_leader(group, path, finish)
        return manifest[0] if manifest else _manifest(request, request.snapshot.leaves, str(digest))
    except BaseException:
        writer.close()
        if group.leads:
            request.files.remove_tree_quietly(staging)
        raise


def write_leaves(
    snapshot: Snapshot, writer: TileWriter, *, leads: bool, threads: int = _THREADS
) -> np.ndarray[Any, Any]:
    """Write what this process owns.

    Args:
        snapshot: The tree.
        writer: Writes the tiles.
        leads: Whether to write what only one process does.
        threads: How many tiles are written at once.

    Returns:
        Checksums, of type `RECORD`.
    """
    tasks = []
    for number, (leaf, pieces) in enumerate(zip(snapshot.leaves, snapshot.pieces, strict=True)):
        if pieces is None:
            continue
        if leads:
            writer.add_file(f"{leaf.directory}/zarr.json", leaf.format.metadata())
        if pieces.shared and not leads:
            tasks.append((_compare, number, leaf, pieces, None))
            continue
        by_file: dict[Shape, list[Shape]] = {}
        for place in pieces.tiles(leaf.format.tiles):
            by_file.setdefault(leaf.format.file_of(place), []).append(place)
        tasks += [(_write, number, leaf, pieces, places) for places in by_file.values()]
        if leaf.tile != leaf.canonical:
            tasks.append((_mask, number, leaf, pieces, None))

    def run(task: Any) -> list[tuple[int, int, int, int]]:
        function, *rest = task
        return function(*rest, writer)

    with ThreadPoolExecutor(threads) as pool:
        found = [record for records in pool.map(run, tasks) for record in records]
    writer.sync()
    return np.array(found, RECORD)


Records = list[tuple[int, int, int, int]]


def _write(
    number: int, leaf: LeafEntry, pieces: Pieces, places: list[Shape], writer: TileWriter
) -> Records:
    layout, records = leaf.format, []
    canonical = leaf.tile == leaf.canonical
    for place in places:
        values, here = pieces.gather(layout.tiles.index(place), layout.dtype)
        if here != values.size:
            raise ValueError(f"{leaf.path}: this process has only a part of the tile {place}")
        crc = writer.write(leaf.directory, layout, place, values)
        if canonical:
            records.append((number, layout.tiles.number(place), crc, values.size))
    return records


def _mask(number: int, leaf: LeafEntry, pieces: Pieces, _: None, writer: TileWriter) -> Records:
    """Checksums of this process's parts of tiles that several processes share."""
    del writer
    grid, dtype = Grid(leaf.shape, leaf.canonical), leaf.format.dtype
    records: Records = []
    for place in pieces.tiles(grid):
        values, here = pieces.gather(grid.index(place), dtype)
        records.append((number, grid.number(place), crc32c(values), here))
    return records


def _compare(number: int, leaf: LeafEntry, pieces: Pieces, _: None, writer: TileWriter) -> Records:
    """Checksums of an array that another process writes."""
    return [(n, t, crc, 0) for n, t, crc, _ in _mask(number, leaf, pieces, None, writer)]


def _leave_note(
    files: Files, writer: TileWriter, index: int, records: np.ndarray[Any, Any]
) -> None:
    """Tell the first process what was written. It reads this and removes it."""
    note = {
        "files": dict(writer.written),
        "records": base64.b64encode(records.tobytes()).decode(),
    }
    path = writer.root / f"process_{index}.json"
    files.write_new(path, json.dumps(note).encode(), sync=False)


def _finish(request: Request, writer: TileWriter, records: np.ndarray[Any, Any]) -> Manifest:
    """What one process does alone at the end."""
    group, snapshot, files = request.group, request.snapshot, request.files
    if group.count > 1:
        notes = [writer.root / f"process_{i}.json" for i in range(group.count)]
        found = [json.loads(note.read_bytes()) for note in notes]
        for note in found:
            writer.written.update({name: tuple(entry) for name, entry in note["files"].items()})
        records = np.concatenate(
            [np.frombuffer(base64.b64decode(note["records"]), RECORD) for note in found]
        )
        for note in notes:
            files.remove_file(note)
    if request.plan is not None:
        writer.add_file(PLAN, request.plan)
    leaves, tiles = _digests(snapshot, records)
    digest = tree_digest((leaf.path, leaf.digest) for leaf in leaves)
    manifest = _manifest(request, leaves, digest)
    finish_checkpoint(writer, request.path, files, manifest=manifest, tiles=tiles)
    return manifest


def _manifest(request: Request, leaves: tuple[LeafEntry, ...], digest: str) -> Manifest:
    return Manifest(
        leaves=leaves,
        tree=request.snapshot.tree,
        digest=digest,
        mesh=request.snapshot.mesh,
        writer=writer_versions(),
        created_unix_s=time.time(),
        **request.describe,
    )


def writer_versions() -> dict[str, str]:
    """Versions of what writes, for the manifest."""
    return {name: version(name) for name in ("autoshard", "jax", "numpy")}


def finish_checkpoint(
    writer: TileWriter, path: Path, files: Files, *, manifest: Manifest, tiles: bytes
) -> None:
    """Add orbax's own files, and commit.

    Args:
        writer: What wrote the arrays.
        path: The checkpoint's place.
        files: How files are changed.
        manifest: What it holds.
        tiles: Checksums of all canonical tiles.
    """
    for name, data in small_files(manifest).items():
        if name not in writer.written:
            writer.add_file(name, data)
    unfinished = writer.unfinished()
    if unfinished:
        raise CheckpointError(unfinished[0], "lacks tiles", "write every element of every tensor")
    writer.sync()
    seal(writer.root, path, files, manifest=manifest, tiles=tiles, written=writer.written)


def small_files(manifest: Manifest) -> dict[str, bytes]:
    """All files that follow from a manifest: orbax's own, and the numbers repeated for it."""
    files: dict[str, bytes] = {}
    for leaf in manifest.leaves:
        if leaf.has_files:
            files[f"{leaf.directory}/zarr.json"] = leaf.format.metadata()
        scalar = orbax_scalar(decode_value(dict(leaf.value))) if leaf.value else None
        if scalar is not None:
            layout = ArrayFormat((), scalar.dtype, (), ())
            body, trailer, _ = layout.encode((), scalar)
            files[f"state/{leaf.name}/zarr.json"] = layout.metadata()
            files[f"state/{leaf.name}/c"] = bytes(body) + trailer + layout.index(())
    custom = {"autoshard": {"digest": manifest.digest, "step": manifest.step}}
    time_ns = int(manifest.created_unix_s * 1e9)
    return {
        **files,
        **metadata_files(manifest.leaves, manifest.tree, time_ns=time_ns, custom=custom),
    }


def _digests(
    snapshot: Snapshot, records: np.ndarray[Any, Any]
) -> tuple[tuple[LeafEntry, ...], bytes]:
    """Leaves with their digests, and the checksums of all canonical tiles."""
    by_leaf: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for number, tile, crc, elements in records.tolist():
        by_leaf.setdefault(number, {}).setdefault(tile, []).append((crc, elements))
    leaves: list[LeafEntry] = []
    tables: list[bytes] = []
    for number, leaf in enumerate(snapshot.leaves):
        if leaf.has_files:
            crcs = _canonical_crcs(leaf, by_leaf.get(number, {}))
            tables.append(np.array(crcs, "<u4").tobytes())
            leaf = replace(leaf, digest=content_digest(leaf.dtype, leaf.shape, crcs))
        leaves.append(leaf)
    return tuple(leaves), b"".join(tables)


def _canonical_crcs(leaf: LeafEntry, found: Mapping[int, list[tuple[int, int]]]) -> list[int]:
    grid, crcs = Grid(leaf.shape, leaf.canonical), []
    for number in range(len(grid)):
        shape = index_shape(grid.index(grid.place(number)))
        own = [(crc, n) for crc, n in found.get(number, ()) if n]
        if sum(n for _, n in own) != math.prod(shape):
            raise CheckpointError(
                leaf.path,
                "the processes together do not hold all of it",
                "save from every process at once",
            )
        length = math.prod(shape) * leaf.element.itemsize
        value = combine_masked([crc for crc, _ in own], length)
        if any(crc != value for crc, n in found[number] if not n):
            raise CheckpointError(
                leaf.path,
                "is an array of each process's own, and they differ",
                "make it one global array, or the same in every process",
            )
        crcs.append(value)
    return crcs
