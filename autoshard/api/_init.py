"""State that is born sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard._compat import memory_first_options
from autoshard.tracing import abstract, parameter_names, path_text


def check_arguments(create: Callable[..., Any], args: Sequence[Any]) -> None:
    """Refuse arguments that cannot be traced.

    Raises:
        ArgumentError: One is no array.
    """
    names = parameter_names(create, len(args))
    for path, leaf in jax.tree_util.tree_flatten_with_path(tuple(args))[0]:
        name, rest = names[path[0].idx], path[1:]
        abstract(leaf, f"{name}/{path_text(rest)}" if rest else name)


def create_sharded(
    create: Callable[..., Any], args: Sequence[Any], shardings: Sequence[Any], mesh: Mesh
) -> list[Any]:
    """Run a function that makes state so that every leaf is made in its sharding.

    Args:
        create: The function.
        args: Its arguments.
        shardings: One per leaf of its result.
        mesh: Where to run it.

    Returns:
        The leaves, in memory of their own.
    """
    on_mesh = jax.tree.map(lambda x: _bring(x, mesh), tuple(args))
    return list(creation(create, shardings, mesh)(*on_mesh))


def creation(create: Callable[..., Any], shardings: Sequence[Any], mesh: Mesh) -> Any:
    """The jitted function that makes the leaves of the state, each in its sharding."""

    def flat(*inputs: Any) -> list[Any]:
        return jax.tree.leaves(create(*inputs))

    options = memory_first_options(mesh.devices.flat[0].platform)
    return jax.jit(flat, out_shardings=list(shardings), compiler_options=options)


def _bring(leaf: Any, mesh: Mesh) -> Any:
    """An array that is bound to other devices than the mesh's is copied to all of these."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
        return leaf
    if not leaf.committed or leaf.sharding.device_set == set(mesh.devices.flat):
        return leaf  # jit takes what is bound to no device wherever it is needed
    return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))
