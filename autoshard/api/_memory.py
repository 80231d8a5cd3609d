"""What a parallelized function remembers between calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from autoshard.api._calls import Call
from autoshard.api._entry import Entry
from autoshard.api._ownership import Ownership
from autoshard.api._recent import Recent


class Reader(Protocol):
    """What reads the calls of a function."""

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call."""
        ...

    def read_arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call from which static arguments are left out."""
        ...

    def bind(self, function: Callable[..., Any], call: Call) -> Callable[..., Any]:
        """The function of a call's arrays, named as the user named them."""
        ...


class Memory:
    """What a parallelized function remembers between calls; its bound methods share it.

    Args:
        owned: Arrays that may be donated.
        reader: Reads arguments.
    """

    def __init__(self, owned: Ownership, reader: Reader) -> None:
        self.owned = owned
        self.reader = reader
        self.entries: dict[Any, Entry] = {}
        self.latest: Entry | None = None
        self.recent: Recent | None = None
        self.mesh: jax.sharding.Mesh | None = None
        self.notes: tuple[str, ...] = ()
        self.lock = threading.RLock()  # two threads' first calls are planned once
