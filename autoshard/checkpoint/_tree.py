"""Trees of arrays as tables of leaves: names, kinds of nodes, and what each leaf is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import (
    DictKey,
    FlattenedIndexKey,
    GetAttrKey,
    SequenceKey,
    tree_flatten_with_path,
)

from autoshard.checkpoint._tensors import Role, join_path
from autoshard.errors import CheckpointKeyError


@dataclass(frozen=True, slots=True)
class Key:
    """One step on the way to a leaf.

    Args:
        kind: ``s`` a position in a sequence, ``d`` a string in a dict, ``i`` an integer in a dict,
            ``a`` an attribute, ``f`` a child of a node without names.
        text: The position or name.
    """

    kind: str
    text: str

    @classmethod
    def of(cls, key: Any) -> Key:
        """From a key of a jax tree path."""
        if isinstance(key, SequenceKey):
            return cls("s", str(key.idx))
        if isinstance(key, GetAttrKey):
            return cls("a", key.name)
        if isinstance(key, FlattenedIndexKey):
            return cls("f", str(key.key))
        value = key.key if isinstance(key, DictKey) else key
        if isinstance(value, str):
            return cls("d", value)
        if isinstance(value, int) and not isinstance(value, bool):
            return cls("i", str(value))
        raise CheckpointKeyError([str(value)], f"a key of type {type(value).__name__} has no name")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLeaf:
    """A leaf and the way to it.

    Args:
        path: Its path.
        keys: The way.
        value: The leaf.
        role: What it is to a training run, as far as the classes around it tell.
        logical_axes: Names of its dimensions, where Flax knows them.
    """

    path: str
    keys: tuple[Key, ...]
    value: Any
    role: Role
    logical_axes: tuple[str | None, ...] | None


@dataclass(frozen=True, slots=True)
class _Around:
    role: Role = Role.OTHER
    logical_axes: tuple[str | None, ...] | None = None


def read_tree(tree: Any) -> tuple[list[TreeLeaf], dict[str, Any]]:
    """The leaves of a tree, and its nodes as JSON.

    Args:
        tree: Any pytree.

    Returns:
        Leaves in jax's order; the structure, with ``{"leaf": path}`` in place of leaves.

    Raises:
        CheckpointKeyError: Two leaves have one path, or a key has no name.
    """
    leaves: list[TreeLeaf] = []

    def walk(node: Any, keys: tuple[Key, ...], around: _Around) -> dict[str, Any]:
        if node is None:
            return {"type": "none"}
        flat = _one_level(node, keys)
        if flat is None:
            path = join_path([key.text for key in keys])
            leaves.append(
                TreeLeaf(
                    path=path,
                    keys=keys,
                    value=node,
                    role=_leaf_role(node, around.role),
                    logical_axes=around.logical_axes,
                )
            )
            return {"leaf": path}
        children, kinds = [], []
        for key, child in flat:
            own = Key.of(key)
            inner = _look_around(node, own, around)
            children.append(walk(child, (*keys, own), inner))
            kinds.append([own.kind, own.text])
        return {**_node_type(node), "keys": kinds, "children": children}

    try:
        nodes = walk(tree, (), _Around())
    except RecursionError as error:
        raise CheckpointKeyError(["the tree"], "is nested too deeply, or contains itself") from (
            error
        )
    _check_paths(leaves)
    return leaves, nodes


def _one_level(node: Any, keys: tuple[Key, ...]) -> list[tuple[Any, Any]] | None:
    try:
        flat, _ = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    except ValueError as error:  # keys of a dict that cannot be sorted
        where = join_path([key.text for key in keys]) or "the tree"
        raise CheckpointKeyError([where], "its keys have types that cannot be compared") from error
    if len(flat) == 1 and not flat[0][0]:
        return None
    return [(path[0], child) for path, child in flat]


def _node_type(node: Any) -> dict[str, Any]:
    kind = type(node)
    if kind in (dict, list, tuple):
        return {"type": kind.__name__}
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {"type": "namedtuple", "class": name}
    if isinstance(node, Mapping):
        return {"type": "mapping", "class": name}
    return {"type": "custom", "class": name}


def _check_paths(leaves: Sequence[TreeLeaf]) -> None:
    seen: dict[str, TreeLeaf] = {}
    for leaf in leaves:
        other = seen.setdefault(leaf.path, leaf)
        if other is not leaf:
            raise CheckpointKeyError(
                [leaf.path, other.path], "two leaves have this path (a number and a text as keys)"
            )


# Roles and axes come from classes that say so, never from names of parameters. ------------------


def _look_around(node: Any, key: Key, around: _Around) -> _Around:
    role, axes = around.role, around.logical_axes
    for library, find in _LIBRARIES.items():
        if library in sys.modules:
            role, axes = find(node, key, role, axes)
    return _Around(role, axes)


Found = tuple[Role, tuple[str | None, ...] | None]


def _in_train_state(node: Any, key: Key, role: Role, axes: tuple[str | None, ...] | None) -> Found:
    if isinstance(node, sys.modules["flax.training.train_state"].TrainState):
        fields = {"params": Role.PARAMETER, "opt_state": Role.OPTIMIZER, "step": Role.STEP}
        role = fields.get(key.text, role)
    return role, axes


def _in_optax(node: Any, key: Key, role: Role, axes: tuple[str | None, ...] | None) -> Found:
    del key
    if type(node).__module__.partition(".")[0] == "optax":
        role = Role.OPTIMIZER
    return role, axes


def _in_nnx(node: Any, key: Key, role: Role, axes: tuple[str | None, ...] | None) -> Found:
    del key
    nnx = sys.modules["flax.nnx"]
    if isinstance(node, nnx.Variable):
        kinds = {nnx.Param: Role.PARAMETER, nnx.RngState: Role.RNG, nnx.OptState: Role.OPTIMIZER}
        role = next((r for kind, r in kinds.items() if isinstance(node, kind)), role)
        named = node.get_metadata().get("sharding_names") or node.get_metadata().get("out_sharding")
        axes = _axis_names(named) or axes
    return role, axes


def _in_boxes(node: Any, key: Key, role: Role, axes: tuple[str | None, ...] | None) -> Found:
    del key
    if isinstance(node, sys.modules["flax.core.meta"].Partitioned):
        axes = _axis_names(node.names) or axes
    return role, axes


_LIBRARIES: dict[str, Callable[..., Found]] = {
    "flax.training.train_state": _in_train_state,
    "optax": _in_optax,
    "flax.nnx": _in_nnx,
    "flax.core.meta": _in_boxes,
}


def _axis_names(names: Any) -> tuple[str | None, ...] | None:
    if not isinstance(names, tuple | list):
        return None
    flat = [n for n in names if n is None or isinstance(n, str)]
    return tuple(flat) if len(flat) == len(names) else None


def _leaf_role(leaf: Any, role: Role) -> Role:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return Role.RNG
    return role


def build_tree(nodes: Mapping[str, Any], leaves: Mapping[str, Any]) -> Any:
    """A tree of plain containers from the JSON of `read_tree`.

    Named tuples, dataclasses and other classes become dicts of their fields.

    Args:
        nodes: The structure.
        leaves: Leaves by path.
    """
    if "leaf" in nodes:
        return leaves[nodes["leaf"]]
    if nodes["type"] == "none":
        return None
    children = [build_tree(child, leaves) for child in nodes["children"]]
    if nodes["type"] in ("list", "tuple"):
        return children if nodes["type"] == "list" else tuple(children)
    names = [int(text) if kind in "if" else text for kind, text in nodes["keys"]]
    return dict(zip(names, children, strict=True))
