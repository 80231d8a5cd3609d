"""Saving while training goes on: the state is copied to the host, and written by a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from autoshard.checkpoint._manifest import Manifest
from autoshard.checkpoint._save import Request, make_request, run_save
from autoshard.checkpoint._snapshot import Pieces, Snapshot
from autoshard.plan import Plan

_THREADS = max(2, min(8, os.cpu_count() or 2))
_PART_BYTES = 16 << 20  # what one thread copies at a time


class Arena:
    """Host memory that one save after the other copies the state into; one at a time.

    Memory that was used before is copied into several times faster than new memory, whose pages
    the system first has to find. So memory is made in the background, after a first save that did
    without: of arrays on CPU devices jax gives a view, and an array that is viewed is not taken by
    donation; what takes its place then costs new memory once.
    """

    def __init__(self) -> None:
        self._buffers: dict[Any, np.ndarray[Any, Any]] = {}

    def buffer(self, key: Any, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """Memory for a copy of an array, if there is some."""
        found = self._buffers.get(key)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            return None
        return found

    def prepare(self, snapshot: Snapshot, keys: frozenset[Any]) -> None:
        """Make memory for the next snapshot like this one, for some of its parts."""
        for key, part in _parts(snapshot):
            array = np.asarray(part)
            if key in keys and self.buffer(key, array) is None:
                fresh = np.empty(array.shape, array.dtype)
                fresh.reshape(-1).view(np.uint8).fill(0)  # which finds its pages
                self._buffers[key] = fresh


def copy_to_host(snapshot: Snapshot, arena: Arena) -> Snapshot:
    """The same snapshot in memory that training cannot change or take.

    Args:
        snapshot: What to hold.
        arena: Where copies go.
    """
    parts = _parts(snapshot)
    for _, part in parts:
        if isinstance(part, jax.Array) and not _on_cpu(part):
            part.copy_to_host_async()  # all transfers run at once
    held: dict[tuple[int, int], np.ndarray[Any, Any]] = {}
    tasks: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for key, part in parts:
        array = np.asarray(part)
        if not isinstance(part, jax.Array) or _on_cpu(part):
            out = arena.buffer(key, array)
            if out is None and not isinstance(part, jax.Array):
                out = np.empty_like(array)  # its owner may write into it
            if out is not None:
                tasks += _chunks(out, array)
                array = out
        held[key] = array
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda task: np.copyto(*task), tasks):
            pass
    pieces = tuple(
        found
        and Pieces(
            parts=tuple((index, held[leaf, n]) for n, (index, _) in enumerate(found.parts)),
            shared=found.shared,
        )
        for leaf, found in enumerate(snapshot.pieces)
    )
    return replace(snapshot, pieces=pieces)


def _parts(snapshot: Snapshot) -> list[tuple[tuple[int, int], Any]]:
    return [
        ((leaf, number), part)
        for leaf, pieces in enumerate(snapshot.pieces)
        for number, (_, part) in enumerate(pieces.parts if pieces else ())
    ]


def _on_cpu(part: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in part.devices())


def _chunks(out: Any, source: Any) -> list[tuple[Any, Any]]:
    """Parts of a copy that threads can share."""
    if source.ndim == 0 or source.nbytes <= _PART_BYTES:
        return [(out, source)]
    rows = max(1, len(source) * _PART_BYTES // source.nbytes)
    return [(out[i : i + rows], source[i : i + rows]) for i in range(0, len(source), rows)]


class PendingSave:
    """A save that runs in the background.

    Args:
        work: Runs it.
    """

    def __init__(self, work: Callable[[], Manifest]) -> None:
        self._future: Future[Manifest] = Future()

        def run() -> None:
            try:
                self._future.set_result(work())
            except BaseException as error:
                self._future.set_exception(error)

        # Not a daemon: the interpreter waits for it at exit.
        self._thread = threading.Thread(target=run, name="autoshard-save")
        self._thread.start()

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def result(self, timeout_s: float | None = None) -> Manifest:
        """Wait for the end.

        Args:
            timeout_s: How long; None for as long as it takes.

        Returns:
            What was saved.

        Raises:
            TimeoutError: It is not done yet.
            CheckpointError: It failed. Earlier checkpoints are untouched.
        """
        result = self._future.result(timeout_s)
        self._thread.join()
        return result


def save_async(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    plan: Plan | None = None,
    metadata: Mapping[str, Any] | None = None,
    arena: Arena | None = None,
) -> PendingSave:
    """Save as `save` does, in the background. The arrays may be donated as soon as this returns.

    Args:
        path: A place where nothing is.
        tree: As for `save`.
        step: Likewise.
        plan: Likewise.
        metadata: Likewise.
        arena: Memory that an earlier save, which has ended, used.

    Returns:
        The save: ask it for its ``result()``.

    Raises:
        CheckpointKeyError: Two leaves would be stored under one name.
        CheckpointLeafError: A leaf cannot be stored.
    """
    request = make_request(path, tree, step=step, plan=plan, metadata=metadata)
    return start(request, arena)


def start(
    request: Request, arena: Arena | None, then: Callable[[Manifest], None] | None = None
) -> PendingSave:
    """Copy what a request speaks of, and run it in the background.

    Args:
        request: The save.
        arena: Where copies go, now and the next time.
        then: Called in the background with what was saved.
    """
    # Only of these does a copy need memory of ours: an accelerator's arrays get their own.
    copied = frozenset(
        key
        for key, part in _parts(request.snapshot)
        if not isinstance(part, jax.Array) or _on_cpu(part)
    )
    held = replace(request, snapshot=copy_to_host(request.snapshot, arena or Arena()))

    def work() -> Manifest:
        manifest = run_save(held)
        if arena is not None:
            arena.prepare(held.snapshot, copied)
        if then is not None:
            then(manifest)
        return manifest

    return PendingSave(work)
