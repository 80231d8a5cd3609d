"""The logical mesh: named axes with sizes, and the ways people write it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoshard.errors import MeshError

_ENTRY = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(-?\d+)\s*")


@dataclass(frozen=True, slots=False)
class MeshShape:
    """Axis names and sizes, in order from the slowest to the fastest varying device.

    Args:
        names: Axis names.
        sizes: Devices along each axis.

    Raises:
        MeshError: A name repeats or cannot be written in a strategy, a size is below one, or
            there is no axis.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.sizes):
            raise MeshError(self.text, "a mesh has at least one named axis with a size")
        if len(set(self.names)) != len(self.names):
            raise MeshError(self.text, "an axis name stands twice")
        for name in self.names:
            if not name or re.search(r"[\s=,+@]", name):
                raise MeshError(self.text, f"{name!r} is not a name that a strategy could speak of")
        if any(size < 1 for size in self.sizes):
            raise MeshError(self.text, "every axis has at least one device")

    @cached_property
    def axes(self) -> Mapping[str, int]:
        """Sizes by name."""
        return dict(zip(self.names, self.sizes, strict=True))

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.sizes)

    def size_of(self, axes: Iterable[str]) -> int:
        """Product of the sizes of some axes."""
        sizes, product = self.axes, 1
        for axis in axes:  # asked for at every factor of every op, mostly of no axis at all
            product *= sizes[axis]
        return product

    @property
    def text(self) -> str:
        """``data=2,model=4``."""
        return ",".join(f"{n}={s}" for n, s in zip(self.names, self.sizes, strict=False))

    def __str__(self) -> str:
        return self.text


def parse_mesh(mesh: Any, n_devices: int) -> MeshShape:
    """Read a mesh in any of the forms that users write.

    Args:
        mesh: ``"data=2,model=4"``, a mapping of names to sizes, a `jax.sharding.Mesh`, a
            `MeshShape`, or None for ``data=-1``. One size may be ``-1``: whatever is left.
        n_devices: Devices that the mesh has to cover.

    Returns:
        The mesh.

    Raises:
        MeshError: It cannot be read, or its sizes do not multiply to ``n_devices``.
    """
    if mesh is None:
        mesh = "data=-1"
    if isinstance(mesh, MeshShape):
        entries = list(zip(mesh.names, mesh.sizes, strict=True))
    elif hasattr(mesh, "axis_names") and hasattr(mesh, "shape"):
        entries = [(str(name), int(mesh.shape[name])) for name in mesh.axis_names]
    elif isinstance(mesh, Mapping):
        entries = []
        for name, size in mesh.items():
            if not isinstance(name, str) or not isinstance(size, int) or isinstance(size, bool):
                raise MeshError(str(dict(mesh)), f"{name!r}: {size!r} is not a name with a size")
            entries.append((name, size))
    elif isinstance(mesh, str):
        entries = [_entry(part, mesh) for part in mesh.split(",")]
    else:
        raise MeshError(repr(mesh), f"a {type(mesh).__name__} is not a mesh")
    text = ",".join(f"{n}={s}" for n, s in entries)
    rest = [i for i, (_, size) in enumerate(entries) if size == -1]
    if len(rest) > 1:
        raise MeshError(text, "only one axis can take what is left (-1)")
    if rest:
        known = math.prod(size for _, size in entries if size != -1)
        if known < 1 or n_devices % known:
            raise MeshError(text, f"{known} does not divide the {n_devices} visible devices")
        entries[rest[0]] = (entries[rest[0]][0], n_devices // known)
    shape = MeshShape(tuple(n for n, _ in entries), tuple(s for _, s in entries))
    if shape.size != n_devices:
        raise MeshError(
            text,
            f"it needs {shape.size} devices, {n_devices} are visible",
            hint=f'on a CPU: autoshard.emulate({shape.size}) before JAX starts, or mesh="data=-1"',
        )
    return shape


def _entry(part: str, mesh: str) -> tuple[str, int]:
    match = _ENTRY.fullmatch(part)
    if match is None:
        raise MeshError(mesh, f"{part.strip()!r} is not of the form name=size")
    return match[1], int(match[2])
