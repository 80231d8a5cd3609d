"""What one process holds of a tree, ready to be written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding

from autoshard._compat import key_implementation
from autoshard.checkpoint._manifest import Container, LeafEntry, Storage
from autoshard.checkpoint._orbax import check_names
from autoshard.checkpoint._tensors import Index, whole
from autoshard.checkpoint._tiles import Grid, Shape, covers, file_block, intersect, storage_tile
from autoshard.checkpoint._tiles import within as _within
from autoshard.checkpoint._tree import TreeLeaf, read_tree
from autoshard.checkpoint._values import encode_value, is_value, value_digest
from autoshard.checkpoint._zarr import ORBAX_DTYPES
from autoshard.errors import CheckpointLeafError
from autoshard.plan import Spec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The parts of an array that one process writes.

    Args:
        parts: Each with its place in the array; they do not overlap.
        shared: Whether every process holds all of it, and the first writes it.
    """

    parts: tuple[tuple[Index, Any], ...]
    shared: bool = False

    def tiles(self, grid: Grid) -> Iterator[Shape]:
        """Places of the tiles that the parts touch, in order."""
        found = {grid.number(place) for index, _ in self.parts for place in grid.touching(index)}
        return map(grid.place, sorted(found))

    def gather(self, index: Index, dtype: np.dtype[Any]) -> tuple[Array, int]:
        """A part of the array, contiguous, with zeros where this process has nothing.

        Returns:
            The part, and how many of its elements are here.
        """
        shape = tuple(part.stop - part.start for part in index)
        for where, part in self.parts:
            if covers(where, index):
                array = np.asarray(part)  # no copy where the part is on the host or a CPU device
                values = np.ascontiguousarray(array[_within(index, where)]).view(dtype)
                return values.reshape(shape), math.prod(shape)
        values = np.zeros(shape, dtype)
        here = 0
        for where, array in self.parts:
            common = intersect(where, index)
            if common is not None:
                part = np.ascontiguousarray(np.asarray(array)[_within(common, where)])
                values[_within(common, index)] = part.view(dtype).reshape(
                    tuple(s.stop - s.start for s in common)
                )
                here += part.size
        return values, here


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A tree as one process sees it.

    Args:
        leaves: All leaves; digests of arrays are not known yet.
        pieces: For each leaf what this process writes; None for values and empty arrays.
        tree: The nodes, as JSON.
        mesh: The mesh that its arrays are on, if they are on one.
    """

    leaves: tuple[LeafEntry, ...]
    pieces: tuple[Pieces | None, ...]
    tree: Mapping[str, Any]
    mesh: Mapping[str, int] | None


def take_snapshot(tree: Any, *, processes: int = 1) -> Snapshot:
    """Look at a tree. Arrays on the host and on CPU devices are not copied.

    Args:
        tree: The tree.
        processes: How many processes hold it together.

    Raises:
        CheckpointKeyError: Two leaves would be stored under one name.
        CheckpointLeafError: A leaf cannot be stored.
    """
    found, nodes = read_tree(tree)
    seen = [_look(leaf, processes) for leaf in found]
    leaves = tuple(entry for entry, _ in seen)
    check_names(leaves)
    meshes = {_mesh(leaf.value) for leaf in found} - {None}
    mesh = dict(meshes.pop() or ()) if len(meshes) == 1 else None
    return Snapshot(leaves=leaves, pieces=tuple(p for _, p in seen), tree=nodes, mesh=mesh)


def _look(leaf: TreeLeaf, processes: int) -> tuple[LeafEntry, Pieces | None]:
    value = leaf.value
    common: dict[str, Any] = {"path": leaf.path, "keys": leaf.keys, "role": leaf.role}
    if isinstance(value, Tracer):
        raise CheckpointLeafError(leaf.path, "a value that jax is tracing (save outside of jit)")
    if isinstance(value, jax.Array):
        if value.is_deleted():
            raise CheckpointLeafError(leaf.path, "an array that was donated or deleted")
        return _look_at_jax(leaf, common, processes)
    if isinstance(value, np.ma.MaskedArray):
        raise CheckpointLeafError(leaf.path, "an array with a mask")
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        entry = _entry(leaf, common, Container.NUMPY, array.dtype, array.shape, array.shape)
        parts = ((whole(array.shape), array),)
        return entry, Pieces(parts=parts, shared=True) if entry.has_files else None
    if not is_value(value):
        raise CheckpointLeafError(leaf.path, f"a {type(value).__name__}")
    encoded = encode_value(value)
    return LeafEntry(
        **common, storage=Storage.VALUE, value=encoded, digest=value_digest(encoded)
    ), None


def _look_at_jax(
    leaf: TreeLeaf, common: dict[str, Any], processes: int
) -> tuple[LeafEntry, Pieces | None]:
    array: jax.Array = leaf.value
    container = Container.JAX
    extra: dict[str, Any] = {}
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        extra = {"prng_impl": key_implementation(array.dtype)}
        container, array = Container.KEY, jax.random.key_data(array)
    elif array.weak_type:
        extra = {"weak_type": True}
    shape = array.shape
    local = array.is_fully_addressable
    part = shape if processes == 1 or local else array.sharding.shard_shape(shape)
    extra["spec"] = _spec(array)
    entry = _entry(leaf, {**common, **extra}, container, array.dtype, shape, part)
    if not entry.has_files:
        return entry, None
    owned = tuple(
        (_full(shard.index, shape), shard.data)
        for shard in array.addressable_shards
        # A copy that each process has for itself counts as the same array everywhere.
        if shard.replica_id == 0
    )
    return entry, Pieces(parts=owned, shared=local and processes > 1)


def _entry(
    leaf: TreeLeaf,
    common: dict[str, Any],
    container: Container,
    dtype: np.dtype[Any],
    shape: Shape,
    part: Shape,
) -> LeafEntry:
    if dtype.hasobject or dtype.names or dtype.kind not in "biufcV" or dtype.type is np.void:
        raise CheckpointLeafError(leaf.path, f"an array of dtype {dtype}")
    raw = dtype.name not in ORBAX_DTYPES
    if raw and dtype.itemsize not in (1, 2, 4, 8):
        raise CheckpointLeafError(leaf.path, f"an array of dtype {dtype}")
    known: dict[str, Any] = {
        **common,
        "container": container,
        "dtype": dtype.name,
        "shape": tuple(shape),
    }
    known["logical_axes"] = leaf.logical_axes
    if math.prod(shape) == 0:
        return LeafEntry(**known, storage=Storage.EMPTY, digest=f"{dtype.name}{list(shape)}")
    tile = storage_tile(shape, dtype.itemsize, part)
    return LeafEntry(
        **known,
        storage=Storage.RAW if raw else Storage.ARRAY,
        tile=tile,
        block=file_block(shape, tile, dtype.itemsize, tuple(part)),
    )


def _full(index: Sequence[slice], shape: Shape) -> Index:
    return tuple(slice(*part.indices(n)[:2]) for part, n in zip(index, shape, strict=True))


def _spec(array: jax.Array) -> tuple[tuple[str, ...], ...] | None:
    if not isinstance(array.sharding, NamedSharding):
        return None
    return Spec.from_partition_spec(array.sharding.spec, array.ndim).dims


def _mesh(leaf: Any) -> tuple[tuple[str, int], ...] | None:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    return tuple((str(name), int(size)) for name, size in sharding.mesh.shape.items())
