"""Cutting arrays along a factor, also where it is one of several in a dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoshard.rules._rule import Dims, Factor

Sizes = Mapping[str, Factor]


def _around(dims: Dims, factors: Sizes, name: str, d: int) -> tuple[int, int]:
    """Elements of the factors that stand before and behind ``name`` in dimension ``d``."""
    at = dims[d].index(name)
    sizes = [factors[n].size for n in dims[d]]
    return math.prod(sizes[:at]), math.prod(sizes[at + 1 :])


def cut(
    array: np.ndarray, dims: Dims, factors: Sizes, name: str, shards: int, shard: int
) -> np.ndarray:
    """The part of an array that one shard of a factor holds.

    Args:
        array: The whole array; dimensions behind those of ``dims`` are left alone.
        dims: Its factors.
        factors: Sizes of all factors.
        name: The factor that is cut.
        shards: Into how many parts; divides the factor's size.
        shard: Which of them.

    Returns:
        The part; the array itself if the factor does not stand in it.
    """
    part = factors[name].size // shards
    for d, dim in enumerate(dims):
        if name in dim:
            major, minor = _around(dims, factors, name, d)
            head, tail = array.shape[:d], array.shape[d + 1 :]
            split = array.reshape(*head, major, shards, part, minor, *tail)
            array = split[(slice(None),) * (d + 1) + (shard,)].reshape(
                *head, major * part * minor, *tail
            )
    return array


def join(parts: Sequence[np.ndarray], dims: Dims, factors: Sizes, name: str) -> np.ndarray | None:
    """Put the shards of a factor together.

    Args:
        parts: What the shards hold, in order.
        dims: Factors of the whole array.
        factors: Sizes of all factors.
        name: The factor that was cut.

    Returns:
        The whole array; None if the factor does not stand in it.
    """
    for d, dim in enumerate(dims):
        if name in dim:
            major, minor = _around(dims, factors, name, d)
            head, tail = parts[0].shape[:d], parts[0].shape[d + 1 :]
            split = [p.reshape(*head, major, -1, minor, *tail) for p in parts]
            joined = np.concatenate(split, axis=d + 1)
            return joined.reshape(*head, -1, *tail) if joined.size else joined
    return None


def local_shape(shape: Sequence[int], dims: Dims, name: str, shards: int) -> tuple[int, ...]:
    """The shape of one shard."""
    return tuple(
        size // shards if name in dim else size for size, dim in zip(shape, dims, strict=True)
    )


def smallest_cut(size: int) -> int:
    """The smallest number of equal parts, from two, that a size can be cut into."""
    return next((k for k in range(2, size + 1) if size % k == 0), 1)
