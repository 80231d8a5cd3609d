"""A function of NNX objects as a pure function of their arrays, and the way back."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from autoshard.api.adapters.nnx._kinds import holds_graph
from autoshard.api.adapters.nnx._structure import Structure


@dataclass(slots=True)
class Outcome:
    """What tracing found out about a function's effect on its NNX objects.

    Args:
        graph: Flax's description of the objects afterwards (and of the result, if that holds some
            too); None where only values change.
        leaves: For each leaf of ``graph``: ``(True, slot)`` or ``(False, position among the new
            values)``.
        changed: Slot → position among the new values, where a value has another shape or tree
            than before.
        result: Flax's description of the result; None where it is a tree without NNX objects.
        joint: Whether ``graph`` describes the result as well.
    """

    graph: Any = None
    leaves: list[tuple[bool, int]] = field(default_factory=list)
    changed: dict[int, int] = field(default_factory=dict)
    result: Any = None
    joint: bool = False
    _trees: Any = None

    def parts(self, tree: Any, results: Sequence[Any]) -> tuple[list[Any], Any, Sequence[Any]]:
        """New values, the result, and the flat state, of the pure function's flat results.

        Args:
            tree: The tree of its results.
            results: Them.
        """
        if self._trees is None:
            new, out, state = tree.children()
            self._trees = new, out, new.num_leaves, new.num_leaves + out.num_leaves
            assert state.num_leaves == tree.num_leaves - self._trees[3]
        new, out, first, last = self._trees
        return new.unflatten(results[:first]), out.unflatten(results[first:last]), results[last:]


class PureFunction:
    """The pure function.

    It takes one nested dict per group of slots, then the arguments without NNX objects, and
    returns ``{"new": [...], "out": result, "state": {group: nested dict}}``. The state has exactly
    the paths, shapes and types that it was taken with: what does not fit is in ``new``.

    Args:
        function: The function.
        structure: The split of its NNX arguments.
        assemble: Makes its positional and keyword arguments of the NNX arguments and the others.
        names: Names of the other arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        structure: Structure,
        assemble: Callable[[Sequence[Any], Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]],
        names: Sequence[str],
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self._function = function
        self._structure = structure
        self._assemble = assemble
        kind = inspect.Parameter.POSITIONAL_ONLY
        every = [*(group.name for group in structure.groups), *names]
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(_identifier(name), kind) for name in every]
        )
        self.outcome = Outcome()

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        """Run the function on the arrays of NNX objects."""
        groups = self._structure.groups
        n = len(groups)
        values = [
            _at(tree, slot.path[group.depth :] or ("value",))
            for group, tree in zip(groups, arguments[:n], strict=True)
            for slot in group.slots
        ]
        with nnx.use_eager_sharding(False):
            return self._run(values, arguments[n:])

    def _run(self, values: list[Any], others: Sequence[Any]) -> dict[str, Any]:
        structure = self._structure
        leaves: list[Any] = [None] * len(values)
        for slot, value in zip(structure.slots, values, strict=True):
            leaves[slot.flax_index] = value
        inner = nnx.graph.IndexMap()
        roots = nnx.graph.unflatten(structure.graphdef, leaves, index_ref=inner)
        slot_of = self._slots_of(roots)
        args, kwargs = self._assemble(roots, others)
        out = self._function(*args, **kwargs)
        self.outcome = Outcome()
        state, new, out = self._after(values, roots, inner, slot_of, out)
        rest = iter(state)
        trees = [(g, g.nested([next(rest) for _ in g.slots])) for g in structure.groups]
        kept = OrderedDict((g.name, tree) for g, tree in trees if g.state)
        return {"new": new, "out": out, "state": kept}

    def _slots_of(self, roots: Any) -> dict[int, int]:
        """Identity of a variable → its slot."""
        _, flat = nnx.graph.flatten(roots, ref_index=nnx.graph.RefMap())
        leaves = list(flat.leaves)
        slots = self._structure.slots
        return {id(leaves[s.flax_index]): k for k, s in enumerate(slots) if s.variable}

    def _after(
        self, before: list[Any], roots: Any, inner: Any, slot_of: dict[int, int], out: Any
    ) -> tuple[list[Any], list[Any], Any]:
        """State as it was taken, what does not fit into it, and the result as a tree."""
        outcome = self.outcome
        numbers = nnx.graph.RefMap((value, index) for index, value in inner.items())
        found = nnx.graph.RefMap()
        graph, flat = nnx.graph.flatten(roots, ref_index=found)
        holds = holds_graph(out)
        after = [_raw(leaf) for leaf in flat.leaves]
        if (
            graph == self._structure.graphdef
            and all(found.get(value) == index for index, value in inner.items())
            # Arrays that stand in the graph without a variable are written by flax.
            and all(
                after[slot.flax_index] is old
                for slot, old in zip(self._structure.slots, before, strict=True)
                if not slot.variable
            )
        ):
            state, new = self._same_objects(before, after)
            if holds:
                outcome.result, out = nnx.graph.flatten(
                    out, ref_index=nnx.graph.RefMap(), ref_outer_index=numbers, with_paths=False
                )
            return state, new, out
        outcome.joint = holds
        outcome.graph, flat = nnx.graph.flatten(
            (roots, out) if holds else (roots,),
            ref_index=nnx.graph.RefMap(),
            ref_outer_index=numbers,
        )
        state, new = list(before), []
        for leaf in flat.leaves:
            value, k = _raw(leaf), slot_of.get(id(leaf))
            if k is not None and _form(before[k]) == _form(value):
                state[k] = value
                outcome.leaves.append((True, k))
            else:
                outcome.leaves.append((False, len(new)))
                new.append(value)
        return state, new, None if holds else out

    def _same_objects(self, before: list[Any], after: list[Any]) -> tuple[list[Any], list[Any]]:
        """State and new values where no object came or went."""
        slots = self._structure.slots
        state = [after[slot.flax_index] for slot in slots]
        new: list[Any] = []
        for k, (old, now) in enumerate(zip(before, state, strict=True)):
            if _form(old) != _form(now):
                self.outcome.changed[k] = len(new)
                new.append(now)
                state[k] = old
        return state, new


def _raw(leaf: Any) -> Any:
    return leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf


def _form(value: Any) -> Any:
    """Tree, shapes and element types of a value."""
    leaves, tree = jax.tree.flatten(value)
    return tree, [
        (jax.numpy.shape(x), x.dtype if hasattr(x, "dtype") else jax.numpy.result_type(x))
        for x in leaves
    ]


def _at(tree: Any, path: Sequence[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _identifier(name: str) -> str:
    """A parameter name as Python accepts it."""
    return name if name.isidentifier() else "".join(c if c.isalnum() else "_" for c in name)
