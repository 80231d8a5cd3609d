"""From the data of each process to global arrays."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.api._parallelized import Parallelized
from autoshard.errors import BatchShapeError
from autoshard.lowering import device_mesh
from autoshard.plan import Plan
from autoshard.tracing import path_text


def shard_batch(local: Any, like: Parallelized | Plan | Mesh) -> Any:
    """Make global arrays of the part of a batch that this process has.

    Args:
        local: A tree of host arrays: this process's examples, the leading dimension first. With
            one process it is the whole batch.
        like: A parallelized step that has been planned, or its plan: every array gets the sharding
            of the argument at the same path. Or a mesh: the leading dimension is cut over all of
            its axes.

    Returns:
        The same tree of `jax.Array`.

    Raises:
        BatchShapeError: A leading dimension cannot be cut evenly.
        PathError: The plan has no such argument.
        NotPlannedError: The step has not been planned yet.
    """
    if isinstance(like, Mesh):
        spec = PartitionSpec(like.axis_names)
        return jax.tree.map(lambda x: _place(np.asarray(x), NamedSharding(like, spec), None), local)
    plan = like.last_plan if isinstance(like, Parallelized) else like
    mesh = like.mesh if isinstance(like, Parallelized) else device_mesh(plan.mesh)
    leaves, tree = jax.tree_util.tree_flatten_with_path(local)
    placed = []
    for path, leaf in leaves:
        found = plan.data_leaf(path_text(path) if path else None)
        sharding = NamedSharding(mesh, found.spec.partition_spec())
        placed.append(_place(np.asarray(leaf), sharding, found.shape))
    return jax.tree.unflatten(tree, placed)


def _place(local: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...] | None) -> Any:
    if shape is not None and local.shape[1:] != shape[1:]:
        shape = None  # another batch shape than the planned one: let JAX infer it
    try:
        if shape is None:
            return jax.make_array_from_process_local_data(sharding, local)
        return jax.make_array_from_process_local_data(sharding, local, _global(local, shape))
    except ValueError as error:
        problem = _uneven(local.shape, sharding) or str(error).splitlines()[0]
        raise BatchShapeError(
            local.shape, str(sharding.spec), dict(sharding.mesh.shape), problem
        ) from error


def _uneven(local: tuple[int, ...], sharding: NamedSharding) -> str | None:
    """Which dimension of a process's part cannot be cut, in words, where that is easily said."""
    if len(local) < len(sharding.spec):
        return f"it has {len(local)} dimensions"
    for d, entry in enumerate(sharding.spec):
        axes = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        n = math.prod(sharding.mesh.shape[axis] for axis in axes)
        if jax.process_count() == 1 and local[d] % n:
            return f"dimension {d} of size {local[d]} is not divisible by {'×'.join(axes)} = {n}"
    return None


def _global(local: np.ndarray, planned: tuple[int, ...]) -> tuple[int, ...] | None:
    """The planned shape where the local part can belong to it, else None."""
    if not planned or local.shape == planned:
        return local.shape
    processes = jax.process_count()
    return planned if local.shape[0] * processes == planned[0] else None
