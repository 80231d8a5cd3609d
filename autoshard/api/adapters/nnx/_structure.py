"""The split of a call's NNX objects: what is static about them, and where their arrays are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from flax import nnx

from autoshard._compat import nnx_variable_access
from autoshard.api.adapters.nnx._walk import Walk
from autoshard.errors import GraphStateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One variable, or one array that stands in the graph without a variable.

    Args:
        path: Where it stands, the parameter's name first.
        flax_index: Its position among the leaves of flax's split.
        variable: Whether it is a variable.
        state: Whether it belongs to an NNX object; otherwise it is data beside one.
        place: Container and position in the `Walk`, if that found it.
    """

    path: tuple[str, ...]
    flax_index: int
    variable: bool
    state: bool
    place: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The slots that one parameter of the pure function carries: state alone, or data alone.

    Args:
        name: The parameter.
        depth: Number of leading path parts that it stands for.
        slots: The slots, sorted by path.
    """

    name: str
    depth: int
    slots: tuple[Slot, ...]

    @property
    def state(self) -> bool:
        """Whether it is state."""
        return self.slots[0].state

    def nested(self, values: Sequence[Any]) -> dict[str, Any]:
        """Values as nested dicts, whose keys are the parts of the slots' paths.

        Args:
            values: One per slot.
        """
        tree: dict[str, Any] = {}
        for slot, value in zip(self.slots, values, strict=True):
            at = tree
            *way, last = slot.path[self.depth :] or ("value",)
            for part in way:
                at = at.setdefault(part, {})
            at[last] = value
        return tree


class Structure:
    """What stays the same between calls with the same objects. It keeps none of them alive.

    Args:
        names: Names of the arguments that hold NNX objects.
        roots: Those arguments.

    Attributes:
        graphdef: Flax's static description of all of them together.
        groups: Parameters of the pure function.
        slots: Variables and arrays, in the order in which they become flat arguments.
        plain: Whether all of them are variables.
        all_state: Whether all of them belong to NNX objects.
    """

    def __init__(self, names: Sequence[str], roots: Sequence[Any]) -> None:
        self.graphdef, flat = nnx.graph.flatten(tuple(roots), ref_index=nnx.graph.RefMap())
        leaves, paths = list(flat.leaves), cast(Any, flat.paths)
        walk = Walk(roots, nnx.graph.is_graph_node, _is_variable)
        slots = [
            _slot((str(names[path[0]]), *map(str, path[1:])), index, leaf, walk)
            for index, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
        ]
        self.groups = _group(slots)
        self.slots = [slot for group in self.groups for slot in group.slots]
        objects = [leaves[slot.flax_index] for slot in self.slots]
        self._walk = walk if all(slot.place is not None for slot in self.slots) else None
        self._places = [slot.place for slot in self.slots if slot.place is not None]
        self._types = [type(x) if _is_variable(x) else None for x in objects]
        self.plain = None not in self._types
        self.all_state = all(slot.state for slot in self.slots)
        _, _, metadata = nnx_variable_access()
        self._metadata = [dict(metadata(x)) for x in objects if _is_variable(x)]

    @property
    def key(self) -> Any:
        """Equal for splits that run the same program.

        Raises:
            TypeError: Something static cannot be hashed.
        """
        # Whether flax places a variable when it is made says nothing about its use: objects of
        # `nnx.eval_shape` and of `.init` differ in it.
        nodes = tuple(
            (node.type, node.index, frozenset(_without(dict(node.metadata), "eager_sharding")))
            if isinstance(node, nnx.graph.VariableDef)
            else node
            for node in self.graphdef.nodes
        )
        key = (nodes, tuple(self.graphdef.attributes))
        hash(key)
        return key

    def objects(self, roots: Sequence[Any]) -> list[Any] | None:
        """The variables and arrays of the same objects, if nothing about them has changed.

        Args:
            roots: The arguments that hold NNX objects.

        Returns:
            One variable or array per slot, or None.
        """
        lists = None if self._walk is None else self._walk.follow(roots)
        if lists is None:
            return None
        found = [lists[container][position] for container, position in self._places]
        variables = found if self.plain else [x for x in found if _is_variable(x)]
        types = [*map(type, found)] if self.plain else [_kind(x) for x in found]
        if types != self._types:
            return None
        _, _, metadata = nnx_variable_access()
        try:
            same = [*map(metadata, variables)] == self._metadata
        except (TypeError, ValueError):  # arrays in there do not compare to one truth value
            return None
        return found if same else None

    def split(self, roots: Sequence[Any]) -> tuple[list[Any], Any]:
        """Split the objects with flax.

        Args:
            roots: The arguments that hold NNX objects, as they were when this was made.

        Returns:
            One variable or array per slot, and flax's numbers of all objects.
        """
        references = nnx.graph.RefMap()
        _, flat = nnx.graph.flatten(tuple(roots), ref_index=references)
        leaves = list(flat.leaves)
        return [leaves[slot.flax_index] for slot in self.slots], references

    def values(self, objects: Sequence[Any]) -> list[Any]:
        """What stands in variables and array slots: arrays, or trees of them."""
        read, _, _ = nnx_variable_access()
        if self.plain:
            return [*map(read, objects)]
        return [read(x) if _is_variable(x) else x for x in objects]

    def pure_arguments(self, values: Sequence[Any]) -> list[Any]:
        """One tree per group, of the values of all slots in order."""
        rest = iter(values)
        return [group.nested([next(rest) for _ in group.slots]) for group in self.groups]


def _without(mapping: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in mapping.items() if key != name]


def _is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable)


def _kind(value: Any) -> type | None:
    return type(value) if isinstance(value, nnx.Variable) else None


def _slot(path: tuple[str, ...], index: int, leaf: Any, walk: Walk) -> Slot:
    if not isinstance(leaf, nnx.Variable):
        places = walk.arrays.get(id(leaf), [])
        # An array that stands twice, or that was not found, has no place to be written to.
        place = places[0][:2] if len(places) == 1 else None
        state = all(inside for _, _, inside in places)
        return Slot(path=path, flax_index=index, variable=False, state=state, place=place)
    for mode in ("hijax", "ref"):
        if leaf.get_metadata().get(mode):
            raise GraphStateError("/".join(path), f"is a Variable with {mode}=True")
    place = walk.variables.get(id(leaf))
    return Slot(path=path, flax_index=index, variable=True, state=True, place=place)


def _group(slots: Sequence[Slot]) -> list[Group]:
    """Slots by the parameter of the pure function that carries them.

    An argument that mixes NNX objects with data becomes several parameters, each of one kind:
    state is what comes back as a whole.
    """
    groups: dict[tuple[str, ...], list[Slot]] = {}
    kinds: dict[tuple[str, ...], set[bool]] = {}
    for slot in slots:
        for depth in range(1, len(slot.path) + 1):
            kinds.setdefault(slot.path[:depth], set()).add(slot.state)
    for slot in slots:
        depth = next(d for d in range(1, len(slot.path) + 1) if len(kinds[slot.path[:d]]) == 1)
        groups.setdefault(slot.path[:depth], []).append(slot)
    return [
        Group(
            name=".".join(prefix),
            depth=len(prefix),
            slots=tuple(sorted(group, key=lambda slot: slot.path)),
        )
        for prefix, group in groups.items()
    ]
