"""Telling NNX objects from everything else without importing flax where nobody has."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax

from autoshard.api._leaf_statics import arrays_only, with_statics
from autoshard.api._planning import planning
from autoshard.errors import CapturedModuleError


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


@contextlib.contextmanager
def updates_explained(name: str) -> Generator[None]:
    """Say in the user's words that a function updates what it closes over.

    Args:
        name: The function.

    Raises:
        CapturedModuleError: It does.
    """
    try:
        yield
    except Exception as error:
        flax_errors = sys.modules.get("flax.errors")
        if flax_errors is None or not isinstance(error, flax_errors.TraceContextError):
            raise
        raise CapturedModuleError(name, str(error).split(" (")[0].rstrip(".")) from error


def makes_graph(create: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a function of arrays and constants returns NNX objects; it is traced to find out."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return False
    found: list[bool] = []

    def look(inputs: Sequence[Any]) -> None:
        with nnx.use_eager_sharding(False):
            found.append(holds_graph(create(*with_statics(inputs))))

    try:
        with planning():
            jax.eval_shape(look, arrays_only(args))
    except TypeError:  # an argument that is no array: the caller says so in better words
        return False
    return found[0]
