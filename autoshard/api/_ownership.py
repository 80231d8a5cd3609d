"""Which arrays may be donated: only those that this function made itself."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autoshard.errors import ProcessDataError

Generation = list[weakref.ref[Any]]
"""What one call made."""

_PENDING = 8
"""Generations that are kept as they came before they are sorted into the table."""


class Ownership:
    """Remembers, without keeping them alive, the arrays that a function handed out."""

    def __init__(self) -> None:
        self._arrays: dict[int, weakref.ref[Any]] = {}
        self._sweep_at = 1024
        self._pending: dict[int, Generation] = {}

    def add(self, arrays: Iterable[Any]) -> Generation:
        """Remember arrays.

        Args:
            arrays: The arrays.

        Returns:
            Weak references to them, in their order.
        """
        generation = references(arrays)
        # In a training loop a generation is donated as a whole before anybody asks for one of
        # its arrays: then it never has to be sorted into the table.
        self._pending[id(generation)] = generation
        if len(self._pending) > _PENDING:
            self._settle()
        return generation

    def forget(self, generation: Generation) -> None:
        """Forget what one call made, for all of it was donated."""
        self._pending.pop(id(generation), None)

    def _settle(self) -> None:
        known = self._arrays
        while self._pending:
            _, generation = self._pending.popitem()
            known.update((id(array), ref) for ref in generation if (array := ref()) is not None)
        if len(known) > self._sweep_at:
            self._arrays = {key: ref for key, ref in known.items() if ref() is not None}
            self._sweep_at = 1024 + 2 * len(self._arrays)

    def __contains__(self, array: Any) -> bool:
        self._settle()
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
        self._settle()
        taken: set[int] = set()
        return [
            self._place(leaf, wanted, takes, taken)
            for leaf, wanted, takes in zip(leaves, shardings, donated, strict=True)
        ]

    def place_some(
        self, leaves: Sequence[Any], shardings: Sequence[Any], positions: Sequence[int]
    ) -> list[Any]:
        """Bring some arguments, which are not donated, to their planned shardings.

        Args:
            leaves: All arguments; the others are known to be where they belong.
            shardings: Where the plan wants them.
            positions: Which to look at.

        Returns:
            All arguments.

        Raises:
            ProcessDataError: A host array differs between processes.
            RuntimeError: An array is deleted.
        """
        placed = list(leaves)
        for i in positions:
            placed[i] = self._place(placed[i], shardings[i], False, set())
        return placed

    def _place(self, leaf: Any, wanted: Any, takes: bool, taken: set[int]) -> Any:
        sharding = getattr(leaf, "sharding", None)  # host arrays have none and go as they are
        if sharding is None:
            if isinstance(leaf, np.ndarray) and not wanted.is_fully_addressable:
                return _to_all_processes(leaf, wanted)
            return leaf
        if leaf.is_deleted():
            # jax 0.10.2 ends the process when a deleted array reaches several devices.
            raise RuntimeError("array has been deleted")
        if takes:
            key = id(leaf)
            found = self._arrays.get(key)
            if found is None or found() is not leaf or key in taken:
                return _copy(leaf, wanted)
            taken.add(key)
        if sharding is wanted or sharding == wanted:
            return leaf
        return jax.device_put(leaf, wanted)


def references(arrays: Iterable[Any]) -> Generation:
    """Weak references to arrays."""
    return list(map(weakref.ref, arrays))


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
