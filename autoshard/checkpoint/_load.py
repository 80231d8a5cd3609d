"""Loading a checkpoint into any sharding."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from autoshard._compat import as_weak
from autoshard.checkpoint._commit import read_manifest
from autoshard.checkpoint._manifest import Container, Manifest, Storage
from autoshard.checkpoint._place import Reader, place
from autoshard.checkpoint._plans import saved_spec, specs_of
from autoshard.checkpoint._source import NativeSource
from autoshard.checkpoint._target import Placement, Resolver, Wanted
from autoshard.checkpoint._tree import build_tree
from autoshard.checkpoint._values import decode_value
from autoshard.errors import CheckpointError, PathError
from autoshard.plan import MeshShape, Plan, parse_mesh

_THREADS = max(2, min(8, os.cpu_count() or 2))
_DEFAULT_SHARE = 0.25  # of the free memory


def load(
    path: str | os.PathLike[str],
    target: Any = None,
    *,
    mesh: Any = None,
    plan: Plan | None = None,
    cast: Mapping[str, str] | None = None,
    partial: bool = False,
    budget_bytes: int | None = None,
) -> Any:
    """Load a checkpoint, on whatever mesh it was saved, onto the devices that are there now.

    Every tile that is read is checked. Each process reads what its devices need, and an array goes
    tile by tile into its shards: beside the result, no more host memory than the budget is used.

    Args:
        path: The checkpoint.
        target: The tree to load into: `jax.ShapeDtypeStruct` or arrays, whose shapes and dtypes
            must be those that were saved. A sharding of theirs holds; without one, ``plan`` or
            ``mesh`` decides, and else the first device. numpy arrays and numbers stay such. None
            for all that was saved, in plain dicts, lists and tuples.
        mesh: A mesh as `autoshard.parallelize` takes it: arrays keep the specs that they were saved
            with, as far as the mesh has their axes and they divide.
        plan: A plan: arrays get the specs of its arguments of the same path, on its mesh.
        cast: Glob of paths → dtype, such as ``{"params/*": "bfloat16"}``. Nothing else is ever
            converted.
        partial: Whether the checkpoint may have more than the target.
        budget_bytes: Host memory to use beside the results; by default a quarter of what is free.

    Returns:
        The tree.

    Raises:
        CheckpointMismatchError: Leaves are missing or extra, or shapes or dtypes differ.
        CorruptCheckpointError: A tile is damaged.
        CheckpointError: There is no committed checkpoint.
    """
    _check_budget(budget_bytes)
    source = NativeSource(path)
    placement = _placement(source.manifest, mesh, plan)
    resolver = Resolver(source.path, source.manifest, placement, cast or {})
    budget = _default_budget() if budget_bytes is None else budget_bytes
    with ThreadPoolExecutor(_THREADS) as pool:
        reader = Reader(source, budget, pool, _THREADS)
        if target is None:
            found = {p: _make(reader, wanted) for p, wanted in resolver.everything().items()}
            return build_tree(source.manifest.tree, found)
        wanted, tree = resolver.into(target, partial=partial)
        return jax.tree.unflatten(tree, [_make(reader, leaf) for leaf in wanted])


def metadata(path: str | os.PathLike[str]) -> Manifest:
    """What a checkpoint says of itself, without reading its arrays.

    Args:
        path: The checkpoint.

    Returns:
        Its leaves, step, mesh, plan, digest and the user's metadata.

    Raises:
        CheckpointError: There is no committed checkpoint, or its manifest is damaged.
    """
    return read_manifest(Path(path))


def _make(reader: Reader, wanted: Wanted) -> Any:
    entry = wanted.entry
    if wanted.dtype is None:
        return wanted.finish(decode_value(dict(entry.value or {})))
    if entry.storage is Storage.VALUE:
        array = wanted.finish(None)
        if wanted.sharding is not None:
            array = jax.device_put(array, wanted.sharding)
    elif wanted.sharding is None:
        return wanted.finish(reader.on_host(entry, wanted.dtype))
    elif entry.container is Container.KEY:
        data = place(reader, entry, wanted.dtype, wanted.sharding)
        return jax.random.wrap_key_data(data, impl=entry.prng_impl)
    else:
        array = place(reader, entry, wanted.dtype, wanted.sharding)
    return as_weak(array) if wanted.weak_type else array


def _placement(manifest: Manifest, mesh: Any, plan: Plan | None) -> Placement | None:
    if plan is not None:
        shape, specs = plan.mesh, specs_of(plan)
    elif mesh is not None:
        shape, specs = parse_mesh(mesh, _devices_of(mesh)), {}
    else:
        return None
    devices = mesh if isinstance(mesh, Mesh) else _device_mesh(shape)
    saved = {leaf.path: leaf.spec for leaf in manifest.leaves}

    def sharding(path: str, array_shape: tuple[int, ...]) -> NamedSharding:
        if plan is not None:
            found = [s for p, s in specs.items() if p == path or p.endswith("/" + path)]
            if len(found) != 1:
                raise PathError(path, list(specs), several=bool(found))
            spec = found[0]
        else:
            given = saved.get(path)
            rank = len(array_shape)
            spec = saved_spec(given[:rank] if given else None, array_shape, shape)
        return NamedSharding(devices, spec.partition_spec())

    return sharding


def _devices_of(mesh: Any) -> int:
    return mesh.size if isinstance(mesh, Mesh) else len(jax.devices())


def _device_mesh(shape: MeshShape) -> Mesh:
    return jax.make_mesh(shape.sizes, shape.names, axis_types=(AxisType.Auto,) * len(shape.names))


def _default_budget() -> int:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        free = 4 << 30
    return max(64 << 20, int(free * _DEFAULT_SHARE))


def _check_budget(budget_bytes: int | None) -> None:
    if budget_bytes is not None and budget_bytes < 1:
        raise CheckpointError(
            f"budget_bytes={budget_bytes}", "is not above zero", "budget_bytes=512 << 20"
        )
