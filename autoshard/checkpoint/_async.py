"""Saving while training goes on: the state is held on the host, and written by a thread."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from autoshard.checkpoint._manifest import Manifest
from autoshard.checkpoint._processes import PEER_TIMEOUT_S, Group
from autoshard.checkpoint._save import Request, make_request, run_save
from autoshard.checkpoint._snapshot import Pieces, Snapshot
from autoshard.plan import Plan

_THREADS = max(2, min(8, os.cpu_count() or 2))
_PART_BYTES = 16 << 20  # what one thread copies at a time
_NICE = 10  # a tenth of the weight that the scheduler gives a thread of training


def hold(snapshot: Snapshot) -> Snapshot:
    """The same snapshot in memory that training cannot change or take.

    Arrays on accelerators are copied to the host, all at once. Of an array on CPU devices jax gives
    a view, and does not let donation take an array that is viewed: the step after finds other
    memory for its result, and nothing is copied. Arrays of numpy may be written to by their owner:
    they are copied.

    Args:
        snapshot: What to hold.
    """
    parts = _parts(snapshot)
    for _, part in parts:
        if isinstance(part, jax.Array):
            part.copy_to_host_async()
    held: dict[tuple[int, int], np.ndarray[Any, Any]] = {}
    tasks: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for key, part in parts:
        array = np.asarray(part)
        if not isinstance(part, jax.Array):
            out = np.empty_like(array)
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


def _chunks(out: Any, source: Any) -> list[tuple[Any, Any]]:
    """Parts of a copy that threads can share."""
    if source.ndim == 0 or source.nbytes <= _PART_BYTES:
        return [(out, source)]
    rows = max(1, len(source) * _PART_BYTES // source.nbytes)
    return [(out[i : i + rows], source[i : i + rows]) for i in range(0, len(source), rows)]


def _give_way() -> None:
    """Let training go first where there are not cores enough, as with devices that are CPUs.

    Threads that this one starts inherit it. Where a thread has no priority of its own, or may not
    change it, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            found = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, found + _NICE))


class PendingSave:
    """A save that runs in the background.

    Args:
        work: Runs it.
    """

    def __init__(self, work: Callable[[], Manifest]) -> None:
        self._future: Future[Manifest] = Future()

        def run() -> None:
            _give_way()
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
    peer_timeout_s: float = PEER_TIMEOUT_S,
) -> PendingSave:
    """Save as `save` does, in the background. The arrays may be donated as soon as this returns.

    Args:
        path: A place where nothing is.
        tree: As for `save`.
        step: Likewise.
        plan: Likewise.
        metadata: Likewise.
        peer_timeout_s: Likewise.

    Returns:
        The save: ask it for its ``result()``.

    Raises:
        CheckpointKeyError: Two leaves would be stored under one name.
        CheckpointLeafError: A leaf cannot be stored.
    """
    with Group(peer_timeout_s) as group:
        return start(make_request(path, tree, group, step=step, plan=plan, metadata=metadata))


def start(request: Request, then: Callable[[Manifest], None] | None = None) -> PendingSave:
    """Hold what a request speaks of, and run it in the background.

    Args:
        request: The save.
        then: Called in the background with what was saved.
    """
    held = replace(request, snapshot=hold(request.snapshot), threads=_THREADS // 2)

    def work() -> Manifest:
        with held.group:
            manifest = run_save(held)
            if then is not None:
                then(manifest)
            return manifest

    return PendingSave(work)
