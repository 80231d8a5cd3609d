"""Telling NNX objects from everything else without importing flax where nobody has."""

from __future__ import annotations

import sys
from typing import Any

import jax


def is_graph_object(value: Any) -> bool:
    """Whether a value is a part of an NNX graph: such as a module or a variable."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return False
    return isinstance(value, nnx.Variable) or nnx.graph.is_graph_node(value)


def holds_graph(tree: Any) -> bool:
    """Whether a tree of arguments or results has an NNX object in it.

    Variables alone inside an `nnx.State` do not count: a state is a tree of arrays to JAX, and
    who splits a module wants to pass it as one.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return False

    def stop(value: Any) -> bool:
        return is_graph_object(value) or isinstance(value, nnx.State)

    return any(is_graph_object(leaf) for leaf in jax.tree.leaves(tree, is_leaf=stop))
