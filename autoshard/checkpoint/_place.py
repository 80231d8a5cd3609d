"""From tiles to arrays on devices, with little on the way."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from autoshard.checkpoint._manifest import LeafEntry
from autoshard.checkpoint._source import NativeSource
from autoshard.checkpoint._tensors import Index, index_shape
from autoshard.checkpoint._tiles import Shape, intersect, within

Array = np.ndarray[Any, Any]
_ALIGNMENT = 64  # bytes; from there jax takes the memory of a numpy array as a CPU device's own


class Reader:
    """Reads parts of arrays, several tiles at once.

    Args:
        source: The checkpoint.
        budget_bytes: Host memory to use beside the results.
        pool: Where tiles are read.
        threads: How many at once.
    """

    def __init__(
        self, source: NativeSource, budget_bytes: int, pool: ThreadPoolExecutor, threads: int
    ) -> None:
        self.source = source
        self.budget_bytes = budget_bytes
        self._pool = pool
        self._threads = threads

    def fill(self, leaf: LeafEntry, parts: Sequence[tuple[Index, Array]]) -> None:
        """Read parts of an array. A tile that several of them need is read once.

        Args:
            leaf: The array.
            parts: Each with the array to fill; of another dtype, elements are converted.
        """
        if not leaf.has_files:
            return
        grid = leaf.format.tiles
        users: dict[Shape, list[tuple[Index, Array]]] = {}
        for index, out in parts:
            for place in grid.touching(index):
                users.setdefault(place, []).append((index, out))
        # The tiles in memory at once are part of the budget too; a single one always fits.
        at_once = self.budget_bytes // (2 * leaf.format.stored_bytes)
        at_once = max(1, min(self._threads, at_once))
        turns = threading.Semaphore(at_once)

        def read(place: Shape) -> None:
            with turns:
                tile = self.source.tile(leaf, place)
                where = grid.index(place)
                for index, out in users[place]:
                    common = intersect(where, index)
                    if common is not None:
                        out[within(common, index)] = tile[within(common, where)]

        for _ in self._pool.map(read, sorted(users, key=grid.number)):
            pass

    def on_host(self, leaf: LeafEntry, dtype: np.dtype[Any]) -> Array:
        """The whole array in host memory."""
        out = aligned(leaf.shape, dtype)
        self.fill(leaf, [(tuple(slice(0, n) for n in leaf.shape), out)])
        return out


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An uninitialized array whose memory a CPU device can use as it is."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(tuple(shape))


def place(reader: Reader, leaf: LeafEntry, dtype: np.dtype[Any], sharding: Any) -> jax.Array:
    """An array of a checkpoint, straight into its sharding.

    Every region that some device of this process needs is read once. On CPU devices the memory
    that tiles are read into is the result's; elsewhere regions are sent in groups, or a large one
    in slabs, that fit the budget.

    Args:
        reader: Reads the tiles.
        leaf: The array.
        dtype: Element type of the result.
        sharding: Where it goes; of the data, for keys.
    """
    shape = leaf.shape
    devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        key = tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True))
        devices.setdefault(key, []).append(device)
    found: dict[Any, jax.Array] = {}
    for group in _groups(devices, dtype.itemsize, reader.budget_bytes):
        regions = {key: tuple(slice(*ends) for ends in key) for key in group}
        first = next(iter(regions.values()))
        large = math.prod(index_shape(first)) * dtype.itemsize > reader.budget_bytes
        on_cpu = all(d.platform == "cpu" for key in group for d in devices[key])
        if large and not on_cpu:
            for key, index in regions.items():
                for device in devices[key]:
                    found[device] = in_slabs(reader, leaf, dtype, index, device)
            continue
        buffers = {key: aligned(index_shape(index), dtype) for key, index in regions.items()}
        reader.fill(leaf, [(regions[key], buffer) for key, buffer in buffers.items()])
        for key in group:
            for device in devices[key]:
                found[device] = jax.device_put(buffers[key], _on(device, sharding))
        if not on_cpu:
            jax.block_until_ready(list(found.values()))
    arrays = [found[d] for keys in devices.values() for d in keys]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays, dtype=dtype)


def _on(device: Any, sharding: Any) -> Any:
    """One device of a sharding, and its kind of memory where that is not the usual one."""
    kind = sharding.memory_kind
    if kind is None or kind == device.default_memory().kind:
        return device
    return jax.sharding.SingleDeviceSharding(device, memory_kind=kind)


def _groups(
    devices: Mapping[Any, Sequence[Any]], itemsize: int, budget_bytes: int
) -> list[list[Any]]:
    """Regions whose bytes together fit a budget; one alone may exceed it.

    On CPU devices the buffers are the result, so all may be filled at once.
    """
    if all(d.platform == "cpu" for found in devices.values() for d in found):
        return [list(devices)]
    groups: list[list[Any]] = []
    room = 0
    for key in sorted(devices):
        nbytes = math.prod(stop - start for start, stop in key) * itemsize
        if not groups or nbytes > room:
            groups.append([])
            room = budget_bytes
        groups[-1].append(key)
        room -= nbytes
    return groups


def in_slabs(
    reader: Reader, leaf: LeafEntry, dtype: np.dtype[Any], index: Index, device: Any
) -> jax.Array:
    """A region of an array on a device, sent in slabs that fit the budget.

    Args:
        reader: Reads the tiles.
        leaf: The array.
        dtype: Element type of the result.
        index: The region.
        device: The device.
    """
    shape = index_shape(index)
    sharding = jax.sharding.SingleDeviceSharding(device)
    zeros: Callable[[], jax.Array] = jax.jit(
        lambda: jax.numpy.zeros(shape, dtype), out_shardings=sharding
    )
    update = jax.jit(
        lambda whole, slab, start: jax.lax.dynamic_update_slice(whole, slab, start),
        donate_argnums=0,
    )
    result = zeros()
    for part in slabs(index, leaf.tile, dtype.itemsize, reader.budget_bytes):
        buffer = aligned(index_shape(part), dtype)
        reader.fill(leaf, [(part, buffer)])
        start = tuple(p.start - i.start for p, i in zip(part, index, strict=True))
        result = update(result, jax.device_put(buffer, device), start)
        result.block_until_ready()
    return result


def slabs(index: Index, tile: Shape, itemsize: int, budget_bytes: int) -> list[Index]:
    """A region in parts that fit a budget and end where tiles end.

    Args:
        index: The region.
        tile: Shape of the tiles.
        itemsize: Bytes of an element.
        budget_bytes: The most bytes of a part, unless one row of tiles is more.
    """
    parts = [index]
    for d in range(len(index)):
        row = math.prod(index_shape(parts[0])) * itemsize // max(1, index_shape(parts[0])[d])
        thickness = max(1, budget_bytes // max(1, row) // tile[d]) * tile[d]
        parts = [
            (*part[:d], piece, *part[d + 1 :])
            for part in parts
            for piece in _cut(part[d], thickness)
        ]
        if math.prod(index_shape(parts[0])) * itemsize <= budget_bytes:
            break
    return parts


def _cut(part: slice, thickness: int) -> list[slice]:
    """Pieces of a range that end at multiples of a thickness."""
    ends = range((part.start // thickness + 1) * thickness, part.stop, thickness)
    borders = [part.start, *ends, part.stop]
    return [slice(a, b) for a, b in itertools.pairwise(borders)]
