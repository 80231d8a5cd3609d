"""Seeing quickly that an NNX graph is still the one that was split.

Splitting a graph with flax costs some ten microseconds per variable. A step is called with the
same objects again and again, so the first split leaves behind a list of the containers in the
graph (modules, lists, dicts …) and what stood in them, by identity. Walking that list is enough to
know that a new split would give the same, and finds the variables on the way. Nothing in the list
keeps a module or an array alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from autoshard.api._leaf_statics import is_array

_STATIC = (str, int, float, bool, bytes, complex, type(None))


class _Container(NamedTuple):
    """One container of the graph: unpacked once per step, hence a plain tuple.

    Args:
        parent: The container that it stands in.
        position: Where in there.
        kind: Its class.
        values: What lists its children; None where they are its attributes.
        names: Names of attributes or keys, where it has some.
        ids: Identities of its children.
        loose: Positions of arrays among them, which are new after every step.
    """

    parent: int
    position: int
    kind: type
    values: Callable[[Any], list[Any]] | None
    names: list[Any] | None
    ids: list[int]
    loose: tuple[int, ...]


class Walk:
    """The containers of a graph.

    Args:
        roots: The objects that the graph starts from.
        is_node: Whether a value is an object with attributes in the graph.
        is_variable: Whether a value is a variable.

    Attributes:
        variables: Identity of a variable → the container and position where it was first seen.
        arrays: Identity of an array → where it stands, and whether that is in an NNX object.
    """

    __slots__ = ("_containers", "_keep", "_root_ids", "arrays", "variables")

    def __init__(
        self,
        roots: Sequence[Any],
        is_node: Callable[[Any], bool],
        is_variable: Callable[[Any], bool],
    ) -> None:
        self._containers: list[_Container] = []
        self._keep: list[Any] = []  # static values, so that their identities stay taken
        self.variables: dict[int, tuple[int, int]] = {}
        self.arrays: dict[int, list[tuple[int, int, bool]]] = {}
        seen: set[int] = set()
        lists = [list(roots)]
        queue = [(0, i, root, False) for i, root in enumerate(roots)]
        while queue:
            parent, index, value, inside = queue.pop(0)
            if is_variable(value):
                self.variables.setdefault(id(value), (parent, index))
                continue
            if is_array(value):
                self.arrays.setdefault(id(value), []).append((parent, index, inside))
                continue
            reader = _reader(value, is_node)
            if reader is None:
                self._keep.append(value)
                continue
            if id(value) in seen:
                continue
            seen.add(id(value))
            values, names = reader
            children = [*value.__dict__.values()] if values is None else values(value)
            lists.append(children)
            position = len(lists) - 1
            loose = tuple(i for i, x in enumerate(children) if is_array(x) and not is_variable(x))
            ids = [*map(id, children)]
            self._containers.append(
                _Container(parent, index, type(value), values, names, ids, loose)
            )
            inside = inside or is_node(value)
            queue += [(position, i, child, inside) for i, child in enumerate(children)]
        self._root_ids = [id(root) for root in roots]

    def follow(self, roots: Sequence[Any]) -> list[list[Any]] | None:
        """Walk again.

        Args:
            roots: The objects to start from.

        Returns:
            The children of each container, the roots first; None if anything changed.
        """
        if [*map(id, roots)] != self._root_ids:
            return None
        lists: list[list[Any]] = [list(roots)]
        for parent, index, kind, values, names, wanted, loose in self._containers:
            value = lists[parent][index]
            if type(value) is not kind:
                return None
            if values is None:
                named = value.__dict__
                children = [*named.values()]
            else:
                named = value
                children = values(value)
            ids = [*map(id, children)]
            if ids != wanted and not _same_but(ids, wanted, loose, children):
                return None
            if names is not None and [*named] != names:
                return None
            lists.append(children)
        return lists


def _same_but(
    ids: list[int], wanted: list[int], loose: Sequence[int], children: Sequence[Any]
) -> bool:
    """Whether children are the same, apart from arrays that may be others."""
    if not loose or len(ids) != len(wanted):
        return False
    for i in loose:
        if not is_array(children[i]):
            return False
        ids[i] = wanted[i]
    return ids == wanted


def _reader(
    value: Any, is_node: Callable[[Any], bool]
) -> tuple[Callable[[Any], list[Any]] | None, list[Any] | None] | None:
    """How to list a container's children (None: its attributes), and their names.

    Returns:
        Both; None for a static value.
    """
    if isinstance(value, _STATIC):
        return None
    if is_node(value) and hasattr(value, "__dict__"):
        return None, [*value.__dict__]
    if isinstance(value, dict):
        return _dict_values, [*value]
    if isinstance(value, list | tuple):
        return list, None
    if hasattr(value, "raw_mapping"):
        return _mapping, None
    children = _one_level(value)
    if not children or children[0] is value:  # a node without children, or no node at all
        return None
    return _one_level, None


def _dict_values(value: Any) -> list[Any]:
    return [*value.values()]


def _mapping(value: Any) -> list[Any]:
    return [value.raw_mapping]


def _one_level(value: Any) -> list[Any]:
    """Children of any other pytree node."""
    return jax.tree.leaves(value, is_leaf=lambda child: child is not value)
