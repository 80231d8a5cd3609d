"""Recognizing that a call is like the one before, at the speed of C.

State goes round: what a step returned is what the next call takes. Those arrays are known (shape,
sharding, owner), so comparing identities is all that they need.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from operator import call as dereference
from operator import is_, methodcaller
from typing import Any

import jax
from jax.core import Tracer

from autoshard.api._calls import Call, leaf_key
from autoshard.api._entry import Entry
from autoshard.api._ownership import Generation, Ownership, references

_ATTEMPTS = 3
"""Calls after which state that does not go round is no longer looked for."""


class Recent:
    """The call before, and the state that it made.

    Args:
        call: The call.
        entry: What it ran.

    Attributes:
        others: Positions of the arguments that have to be looked at even when the state is known.
    """

    __slots__ = (
        "_attempts",
        "_kept",
        "_keys",
        "_made",
        "_shape",
        "_state",
        "entry",
        "generation",
        "others",
    )

    def __init__(self, call: Call, entry: Entry) -> None:
        self.entry = entry
        self.generation: Generation | None = None
        self._shape = call.shape
        self._keys = [(getattr(leaf, "aval", None), leaf_key(leaf)) for leaf in call.leaves]
        # Arguments that stay the arrays that they are; a number in their place has no identity.
        self._kept = [i for i in entry.kept_arguments if isinstance(call.leaves[i], jax.Array)]
        self._made: Generation = []
        self._state: _State | None = None
        self.others: Sequence[int] = range(len(call.leaves))
        self._attempts = 0

    def fits(self, call: Call) -> bool:
        """Whether a call runs the same program. Tracers never do.

        Args:
            call: The call; state that was recognized is noted in ``call.known``.
        """
        if call.shape != self._shape:
            return False
        leaves = call.leaves
        state = self._state
        if state is not None and state.holds(leaves, self.generation):
            call.known = True
            others = self.others
        else:
            others = range(len(leaves))
        for i in others:
            aval, key = self._keys[i]
            leaf = leaves[i]
            if (aval is None or getattr(leaf, "aval", None) is not aval) and leaf_key(leaf) != key:
                return False
        return not any(issubclass(kind, Tracer) for kind in set(map(type, leaves)))

    def made(
        self, call: Call, placed: Sequence[Any], generation: Generation, owned: Ownership
    ) -> None:
        """Remember the state that a call made, for the next one.

        Args:
            call: The call.
            placed: Its arguments as they went into the program.
            generation: What it made.
            owned: The arrays that may be donated.
        """
        if self._state is None and self.generation is not None and self._attempts < _ATTEMPTS:
            self._attempts += 1
            self._learn(call, placed)
        if call.known and self.entry.donates:
            owned.forget(self._made)
        self._made = generation
        kept = self._kept
        self.generation = generation + references([placed[i] for i in kept]) if kept else generation

    def _learn(self, call: Call, placed: Sequence[Any]) -> None:
        """See which results of the call before came back as which arguments, where they were."""
        assert self.generation is not None
        where = {
            id(found): j for j, ref in enumerate(self.generation) if (found := ref()) is not None
        }
        arguments = [*self.entry.state_arguments, *self._kept]
        order = [where.get(id(call.leaves[i])) for i in arguments]
        if None in order or len({*order}) != len(order) or not order:
            return
        if all(placed[i] is call.leaves[i] for i in arguments):
            known = {*arguments}
            self.others = tuple(i for i in range(len(call.leaves)) if i not in known)
            kinds = {type(call.leaves[i]) for i in arguments}
            is_deleted = methodcaller("is_deleted") if len(kinds) > 1 else kinds.pop().is_deleted
            self._state = _State(arguments, [j for j in order if j is not None], is_deleted)


class _State:
    """State arguments, and which result of the call before each of them is."""

    __slots__ = ("_is_deleted", "_refs", "_take")

    def __init__(
        self, arguments: Sequence[int], order: Sequence[int], is_deleted: Callable[[Any], bool]
    ) -> None:
        self._is_deleted = is_deleted
        self._take = _taker(arguments)
        self._refs = _taker(order)

    def holds(self, leaves: Sequence[Any], generation: Generation | None) -> bool:
        """Whether the leaves are what the call before made, and alive."""
        if generation is None:
            return False
        state = self._take(leaves)
        refs = self._refs(generation)
        return all(map(is_, map(dereference, refs), state)) and not any(
            map(self._is_deleted, state)
        )


def _taker(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes the elements at some positions of a list."""
    first, n = positions[0], len(positions)
    if list(positions) == list(range(first, first + n)):
        return operator.itemgetter(slice(first, first + n))
    return operator.itemgetter(*positions)
