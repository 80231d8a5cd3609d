"""Which arrays may be donated: only those that this function made itself."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard.errors import ProcessDataError


class Ownership:
    """Remembers, without keeping them alive, the arrays that a function handed out."""

    def __init__(self) -> None:
        self._arrays: dict[int, weakref.ref[Any]] = {}
        self._sweep_at = 1024

    def add(self, arrays: Iterable[Any]) -> None:
        """Remember arrays."""
        known, ref = self._arrays, weakref.ref
        for array in arrays:
            known[id(array)] = ref(array)
        # Sweeping now and then costs less than a callback on the death of each array.
        if len(known) > self._sweep_at:
            self._arrays = {key: found for key, found in known.items() if found() is not None}
            self._sweep_at = 1024 + 2 * len(self._arrays)

    def __contains__(self, array: Any) -> bool:
        found = self._arrays.get(id(array))
        return found is not None and found() is array

    def place(
        self, leaves: Sequence[Any], shardings: Sequence[Any], donated: Sequence[bool]
    ) -> list[Any]:
        """Bring arguments to their planned shardings, ready to be donated where they will be.

        Args:
            leaves: The arguments.
            shardings: Where the plan wants them.
            donated: Whether the compiled function takes their memory.

        Returns:
            The arguments or copies: a foreign array, and one that stands in the state twice, is
            never deleted under its owner's hands.

        Raises:
            ProcessDataError: A host array differs between processes.
            RuntimeError: An array is deleted.
        """
        known = self._arrays
        taken: set[int] = set()
        placed: list[Any] = []
        for leaf, wanted, takes in zip(leaves, shardings, donated, strict=True):
            sharding = getattr(leaf, "sharding", None)  # host arrays have none and go as they are
            if sharding is not None and leaf.is_deleted():
                # jax 0.10.2 ends the process when a deleted array reaches several devices.
                raise RuntimeError("array has been deleted")
            if (
                sharding is None
                and not wanted.is_fully_addressable
                and isinstance(leaf, np.ndarray)
            ):
                leaf = _to_all_processes(leaf, wanted)
            elif takes and sharding is not None:
                key = id(leaf)
                found = known.get(key)
                if found is not None and found() is leaf and key not in taken:
                    taken.add(key)
                else:
                    leaf = _copy(leaf, wanted)
                    sharding = wanted
            if sharding is not wanted and sharding is not None and sharding != wanted:
                leaf = jax.device_put(leaf, wanted)
            placed.append(leaf)
        return placed


def _to_all_processes(array: np.ndarray, sharding: Any) -> jax.Array:
    """An array that every process has in full, as a global one."""
    try:
        return jax.device_put(array, sharding)
    except AssertionError as error:  # JAX compares the processes' arrays
        raise ProcessDataError(array.shape) from error


def _copy(array: jax.Array, sharding: Any) -> jax.Array:
    """The array in a sharding, in memory of its own."""
    if array.sharding.shard_shape(array.shape) == sharding.shard_shape(array.shape):
        # device_put would share the buffer of a device that has the right part already, even with
        # may_alias=False (seen in jax 0.10.2): donation would delete it.
        array = jnp.copy(array)
    return jax.device_put(array, sharding)
