"""A planned call, lowered and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from autoshard.api._calls import Call
from autoshard.api._entry import Entry
from autoshard.api._ownership import Ownership
from autoshard.errors import CompiledArgumentsError
from autoshard.tracing import abstract

ReadArrays = Callable[[Sequence[Any], Mapping[str, Any]], Call]
"""Reads the arguments of a call, static ones left out."""


class PlannedLowering:
    """A planned call, lowered but not compiled.

    Args:
        entry: The planned program.
        call: The call.
        read: Reads arguments, static ones left out.
        owned: Arrays whose memory may be taken.
    """

    def __init__(self, entry: Entry, call: Call, read: ReadArrays, owned: Ownership) -> None:
        self._entry = entry
        self._call = call
        self._read = read
        self._owned = owned
        self.plan = entry.plan
        captured = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in entry.captured]
        self.lowered = entry.function.lower(*call.structs, *captured)

    def as_text(self, *args: Any, **kwargs: Any) -> str:
        """The lowered module, as `jax.stages.Lowered.as_text` gives it."""
        return self.lowered.as_text(*args, **kwargs)

    def compile(self) -> PlannedExecutable:
        """Compile it."""
        compiled = self.lowered.compile()
        return PlannedExecutable(self._entry, compiled, self._call, self._read, self._owned)


class PlannedExecutable:
    """A planned call, compiled.

    Args:
        entry: The planned program.
        compiled: The `jax.stages.Compiled` of the flat function.
        call: A call as it was compiled for.
        read: Reads arguments, static ones left out.
        owned: Arrays whose memory may be taken.
    """

    def __init__(
        self,
        entry: Entry,
        compiled: Any,
        call: Call,
        read: ReadArrays,
        owned: Ownership,
    ) -> None:
        self._entry = entry
        self._structs = call.structs
        self._tree = call.tree
        self._read = read
        self._owned = owned
        self.plan = entry.plan
        self.compiled = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, as calling the parallelized function would.

        Args:
            *args: Arguments of exactly the tree, shapes and dtypes that it was compiled for,
                static ones left out.
            **kwargs: Likewise.

        Returns:
            What the function returns.

        Raises:
            CompiledArgumentsError: The arguments differ from those it was compiled for.
        """
        call = self._read(args, kwargs)
        if call.tree != self._tree:
            raise CompiledArgumentsError(
                self.plan.name, f"takes {self._tree}, was given {call.tree}"
            )
        planned_leaves = self.plan.arguments
        for leaf, struct, planned in zip(call.leaves, self._structs, planned_leaves, strict=False):
            given = abstract(leaf, planned.path)
            if (given.shape, given.dtype) != (struct.shape, struct.dtype):
                raise CompiledArgumentsError(
                    self.plan.name,
                    f"takes {struct.dtype}{list(struct.shape)} as {planned.path!r}, "
                    f"was given {given.dtype}{list(given.shape)}",
                )
        return self._entry.run(self.compiled, call, self._owned)

    def as_text(self) -> str:
        """Optimized HLO."""
        return self.compiled.as_text()

    def memory_analysis(self) -> Any:
        """The compiler's memory statistics."""
        return self.compiled.memory_analysis()

    def cost_analysis(self) -> Any:
        """The compiler's cost estimate."""
        return self.compiled.cost_analysis()
