"""Which arguments and results a key of ``pins`` speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import jax

from autoshard.errors import PinPathError
from autoshard.tracing import Program

EXACT, END, PATTERN = 0, 1, 2
"""How a key matched: the whole path, an end of it, or as a regular expression."""


def match_paths(
    key: str, arguments: Sequence[str], results: Sequence[str], boxes: Mapping[str, str]
) -> tuple[int, tuple[str, ...]]:
    """Find the paths that a key means.

    In this order, the first way that finds something counts: the whole path; the end of a path
    from a ``/`` on; a regular expression for either. Each is tried on arguments, then on results.

    Args:
        key: The key.
        arguments: Paths of the arguments.
        results: Paths of the results.
        boxes: Paths that also go by another name: that of the box around the array.

    Returns:
        How it matched, and the paths in their order.

    Raises:
        PinPathError: It matches nothing.
    """
    problem = None
    try:
        pattern = re.compile(key)
    except re.error as error:
        pattern, problem = None, str(error)
    for way in (EXACT, END, PATTERN):
        for paths in (arguments, results):
            found = tuple(
                path
                for path in paths
                if any(_is_meant(way, key, pattern, name) for name in (path, boxes.get(path, path)))
            )
            if found:
                return way, found
    raise PinPathError(key, arguments, results, problem)


def _is_meant(way: int, key: str, pattern: re.Pattern[str] | None, path: str) -> bool:
    if way == EXACT:
        return path == key
    if way == END:
        return path.endswith("/" + key)
    return pattern is not None and any(pattern.fullmatch(end) for end in _ends(path))


def _ends(path: str) -> Iterable[str]:
    """A path and its ends: ``a/b/c``, ``b/c``, ``c``."""
    while True:
        yield path
        _, slash, path = path.partition("/")
        if not slash:
            return


def boxed_paths(program: Program) -> dict[str, str]:
    """Paths of arrays inside Flax's metadata boxes → the paths of the boxes.

    A Linen ``Partitioned`` or an NNX variable is a tree node with one array below it, which adds
    a ``value`` to the path. Pins may leave it out.
    """
    paths = [leaf.path for leaf in program.arguments if not leaf.captured]
    if not any(path.endswith("/value") for path in paths):
        return {}
    from flax import nnx
    from flax.core import meta

    tree = jax.tree.unflatten(program.in_tree, paths)
    boxes = (meta.AxisMetadata, nnx.Variable)
    found: dict[str, str] = {}
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, boxes)):
        if isinstance(node, boxes):
            for path in jax.tree.leaves(node):
                found[path] = path.removesuffix("/value")
    return found
