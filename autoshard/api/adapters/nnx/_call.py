"""A call with NNX objects among its arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jax.core import Tracer
from jax.sharding import PartitionSpec

from autoshard._compat import nnx_variable_access
from autoshard.api._calls import Arguments, Call
from autoshard.api._logical import annotated_specs
from autoshard.api.adapters.nnx._layout import Layout
from autoshard.api.adapters.nnx._pure import Outcome
from autoshard.api.adapters.nnx._structure import Structure


class GraphCall(Call):
    """One call with NNX objects.

    Args:
        given: Its arguments.
        layout: Which of them hold NNX objects.
        structure: The split of those.
        token: What tells splits apart.
        objects: Variables and arrays, one per slot.
        roots: The arguments that hold NNX objects.
        data: Arrays of the other arguments, flat, and their structure.
        data_trees: Makes trees of arrays of the other arguments.
    """

    forwards = True

    __slots__ = ("_data_trees", "layout", "objects", "roots", "structure", "values")

    def __init__(
        self,
        given: Arguments,
        *,
        layout: Layout,
        structure: Structure,
        token: int,
        objects: Sequence[Any],
        roots: Sequence[Any],
        data: tuple[list[Any], Any],
        data_trees: Callable[[], Sequence[Any]],
    ) -> None:
        self._data_trees = data_trees
        self.layout = layout
        self.structure = structure
        self.objects = objects
        self.roots = roots
        self.values = structure.values(objects)
        leaves, values_tree = jax.tree.flatten(self.values)
        leaves += data[0]
        super().__init__(given, leaves=leaves, tree=(token, values_tree, data[1]))

    @property
    def args(self) -> tuple[Any, ...]:
        """Arguments of the pure function."""
        return (
            *self.structure.pure_arguments(self.values),
            *self._data_trees(),
        )

    @property
    def kwargs(self) -> dict[str, Any]:
        """The pure function has none."""
        return {}

    @property
    def annotations(self) -> dict[str, PartitionSpec]:
        """What the variables' annotations say."""
        named = zip(self.structure.slots, self.objects, strict=True)
        return annotated_specs({"/".join(slot.path): x for slot, x in named if slot.variable})

    def finish(self, entry: Any, placed: Sequence[Any], results: Sequence[Any]) -> Any:
        """Update the caller's objects and make the result."""
        del placed
        outcome: Outcome = entry.outcome
        new, out, state = outcome.parts(entry.program.out_tree, results)
        values = self.slot_values(state)
        if outcome.graph is not None:
            return self._merge(outcome, values, new, out)
        for k, position in outcome.changed.items():
            values[k] = new[position]
        self._write(values)
        if outcome.result is None:
            return out
        _, numbers = self.structure.split(self.roots)
        outer = nnx.graph.IndexMap.from_refmap(numbers)
        return nnx.graph.unflatten(outcome.result, out, outer_index_outer_ref=outer)

    def slot_values(self, state: Sequence[Any]) -> list[Any]:
        """One value per slot: state from flat results, data as it was."""
        structure = self.structure
        tree = self.tree[1]
        if structure.all_state:
            return [*state] if tree.num_nodes == len(state) + 1 else tree.unflatten(state)
        rest = iter(state)
        return [
            jax.tree.map(lambda _: next(rest), value) if slot.state else value
            for slot, value in zip(structure.slots, self.values, strict=True)
        ]

    def _write(self, values: Sequence[Any]) -> None:
        """Give the caller's variables their values."""
        structure = self.structure
        if structure.plain and not any(isinstance(x, Tracer) for x in jax.tree.leaves(values)):
            _, write, _ = nnx_variable_access()
            deque(map(write, self.objects, values), maxlen=0)
            return
        # Inside a trace flax has to say whether a variable may be written to.
        for slot, variable, old, value in zip(
            structure.slots, self.objects, self.values, values, strict=True
        ):
            if slot.variable and value is not old:
                variable.set_raw_value(value)

    def _merge(self, outcome: Outcome, values: Sequence[Any], new: Sequence[Any], out: Any) -> Any:
        """Rebuild the caller's objects in place, for some came or went."""
        leaves = [values[k] if old else new[k] for old, k in outcome.leaves]
        _, numbers = self.structure.split(self.roots)
        merged = nnx.graph.unflatten(
            outcome.graph, leaves, outer_index_outer_ref=nnx.graph.IndexMap.from_refmap(numbers)
        )
        return merged[1] if outcome.joint else out
