"""What two checkpoints have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from autoshard.checkpoint._manifest import LeafEntry
from autoshard.checkpoint._source import NativeSource
from autoshard.checkpoint._tiles import Grid
from autoshard.checkpoint._values import decode_value


@dataclass(frozen=True, slots=True)
class Difference:
    """One leaf that differs.

    Args:
        path: Of the leaf.
        text: How.
    """

    path: str
    text: str


def diff(
    left: str | os.PathLike[str], right: str | os.PathLike[str], *, count: bool = False
) -> list[Difference]:
    """Compare two checkpoints, on whatever meshes they were saved.

    Digests are compared, so nothing but the manifests is read.

    Args:
        left: One.
        right: The other.
        count: Read the arrays that differ, and say by how much.

    Returns:
        Leaves that differ; none where the contents are the same.

    Raises:
        CheckpointError: One of them is no committed checkpoint.
    """
    sources = NativeSource(left), NativeSource(right)
    a, b = (source.manifest.by_path() for source in sources)
    found = [Difference(path, "only in the first") for path in a if path not in b]
    found += [Difference(path, "only in the second") for path in b if path not in a]
    for path, one in a.items():
        other = b.get(path)
        if other is not None and one.digest != other.digest:
            found.append(Difference(path, _how(one, other, sources, count)))
    return found


def _how(
    one: LeafEntry, other: LeafEntry, sources: tuple[NativeSource, NativeSource], count: bool
) -> str:
    if one.value is not None and other.value is not None:
        return f"{decode_value(dict(one.value))!r} and {decode_value(dict(other.value))!r}"
    shapes = [
        f"{leaf.dtype}{list(leaf.shape)}" if leaf.is_array else "a value" for leaf in (one, other)
    ]
    if shapes[0] != shapes[1]:
        return f"{shapes[0]} and {shapes[1]}"
    if not count:
        return f"{shapes[0]}: other values"
    differing, largest = 0, 0.0
    grid = Grid(one.shape, one.canonical)
    for number in range(len(grid)):
        index = grid.index(grid.place(number))
        x, y = (source.read(one.path, index) for source in sources)
        bits = [v.view(f"V{v.dtype.itemsize}") for v in (x, y)]
        differing += int(np.count_nonzero(bits[0] != bits[1]))
        if x.dtype.kind != "b":
            kind = np.complex128 if x.dtype.kind == "c" else np.float64
            with np.errstate(invalid="ignore", over="ignore"):
                gap = np.abs(x.astype(kind) - y.astype(kind))
            largest = max(largest, float(np.max(np.nan_to_num(gap, nan=np.inf), initial=0)))
    return f"{shapes[0]}: {differing} of {one.info().size} values, by up to {largest:g}"
