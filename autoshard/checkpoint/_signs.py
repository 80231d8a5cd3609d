"""Signs of life that the processes of a cluster give each other, through its key-value store."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

_EVERY_S = 1.0
_PREFIX = "autoshard/alive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a process last said of itself.

    Args:
        beat: Counts its signs.
        told: Its host and process id, for people.
        inside: The groups that it takes part in.
    """

    beat: int
    told: str
    inside: frozenset[str]


class Watch:
    """Looks for the signs of one process.

    Args:
        client: Of the coordination service.
        process: Which.
    """

    def __init__(self, client: Any, process: int) -> None:
        self._client = client
        self._process = process
        self._last: Sign | None = None
        self._changed_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since its last sign was new."""
        return time.monotonic() - self._changed_s

    def look(self) -> Sign | None:
        """Its last sign; None where it never gave one."""
        try:
            text = self._client.key_value_try_get(f"{_PREFIX}/{self._process}")
        except jax.errors.JaxRuntimeError:
            return self._last
        found: Mapping[str, Any] = json.loads(text)
        sign = Sign(beat=found["beat"], told=found["told"], inside=frozenset(found["inside"]))
        if self._last is None or sign.beat != self._last.beat:
            self._changed_s = time.monotonic()
        self._last = sign
        return sign


class Signs:
    """Gives signs of this process's life every second, from a thread, until the process ends.

    Args:
        client: Of the coordination service.
        process: Which one this is.
    """

    def __init__(self, client: Any, process: int) -> None:
        self._client = client
        self._process = process
        self._told = f"process id {os.getpid()} on {platform.node()}"
        self._inside: set[str] = set()
        self._beat = 0
        self._lock = threading.Lock()
        self._give()
        threading.Thread(target=self._run, name="autoshard-alive", daemon=True).start()

    def enter(self, group: str) -> None:
        """Say that this process takes part in a group."""
        with self._lock:
            self._inside.add(group)
        self._give()

    def exit(self, group: str) -> None:
        """Say that it does no more. The next sign tells."""
        with self._lock:
            self._inside.discard(group)

    def watch(self, process: int) -> Watch:
        """Look for another process's signs."""
        return Watch(self._client, process)

    def _run(self) -> None:
        while self._give():
            time.sleep(_EVERY_S)

    def _give(self) -> bool:
        with self._lock:
            self._beat += 1
            sign = {"beat": self._beat, "told": self._told, "inside": sorted(self._inside)}
            try:
                self._client.key_value_set(f"{_PREFIX}/{self._process}", json.dumps(sign), True)
            except Exception:  # the cluster was shut down: nobody looks any more
                return False
        return True


_lock = threading.Lock()
_signs: list[tuple[Any, Signs]] = []


def signs_of(client: Any, process: int) -> Signs:
    """The signs that this process gives through a client: begun once."""
    with _lock:
        for known, signs in _signs:
            if known is client:
                return signs
        _signs.append((client, Signs(client, process)))
        return _signs[-1][1]
