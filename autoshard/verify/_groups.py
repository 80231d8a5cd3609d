"""Replica groups: every form that HLO prints, and the mesh axes that they span."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoshard.errors import HloFormatError, HloMeshError

Groups = tuple[tuple[int, ...], ...]

#: The only "axis" of a collective whose groups are not made of whole axes and single sub-axes.
IRREGULAR = "?"

_LISTS = re.compile(r"\{(?:\{[\d,\s]*\}(?:,\s*\{[\d,\s]*\})*)?\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?$")
_MESH = re.compile(r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{(.*)\}$")
_MESH_AXIS = re.compile(r"'?([^',=]+)'?=(\d+)")
_AXIS_REF = re.compile(r"'?([^',:]+)'?(?::\((\d+)\)(\d+))?(?:,|$)")


@dataclass(frozen=True, slots=True)
class MeshAxes:
    """A mesh as HLO sees it: named axes over the positions of a device assignment.

    HLO numbers devices by their position in the program's device assignment, not by
    ``device.id``. A program that is compiled for a mesh takes the mesh's own order, so that
    position i is the i-th device of ``mesh.devices.flat`` and ids are not needed.

    Args:
        names: Axis names, major first.
        sizes: Axis sizes.
        positions: For each place of the mesh, in row-major order, its position in the device
            assignment; by default the same.

    Example:
        >>> MeshAxes(("data", "model"), (2, 4)).size
        8
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    positions: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names):
            raise HloMeshError(f"axes {self.names} and sizes {self.sizes} do not make a mesh")
        if any(size < 1 for size in self.sizes):
            raise HloMeshError(f"axis sizes have to be positive, got {self.sizes}")
        if not self.positions:
            object.__setattr__(self, "positions", tuple(range(self.size)))
        if sorted(self.positions) != list(range(self.size)):
            raise HloMeshError(
                f"positions have to be each of 0..{self.size - 1} once, got {self.positions}"
            )

    @property
    def size(self) -> int:
        """Number of devices."""
        return int(np.prod(self.sizes, dtype=np.int64))

    @classmethod
    def of(cls, mesh: Any, device_order: Sequence[int] | None = None) -> "MeshAxes":
        """Describe a mesh.

        Args:
            mesh: A `jax.sharding.Mesh` or `AbstractMesh` or what looks like one (``axis_names``
                and ``shape``), a mapping of axis name to size, or a `MeshAxes`.
            device_order: Device ids in the order of the program's device assignment. Needed only
                where that is not the order of ``mesh.devices``.

        Raises:
            HloMeshError: If it is none of these, or the ids are not the mesh's.
        """
        if isinstance(mesh, MeshAxes):
            return mesh
        if isinstance(mesh, Mapping):
            return cls(tuple(map(str, mesh)), tuple(mesh.values()))
        try:
            names = tuple(mesh.axis_names)
            sizes = tuple(int(mesh.shape[name]) for name in names)
        except (AttributeError, TypeError, KeyError):
            raise HloMeshError(
                f"a {type(mesh).__name__} is no mesh: give a jax.sharding.Mesh or, for example, "
                "{'data': 2, 'model': 4}"
            ) from None
        positions: tuple[int, ...] = ()
        if device_order is not None:
            ids = [int(device.id) for device in mesh.devices.flat]
            if sorted(ids) != sorted(device_order):
                raise HloMeshError(f"the mesh has devices {ids}, the program {list(device_order)}")
            positions = tuple(list(device_order).index(i) for i in ids)
        return cls(tuple(map(str, names)), sizes, positions)


@dataclass(frozen=True, slots=True)
class _AxisRef:
    """An axis, or the part of it with `pre` coarser and `size` own steps (a sub-axis of Shardy)."""

    index: int
    pre: int
    size: int


def parse_groups(text: str, partitions: int) -> Groups:
    """Read the value of ``replica_groups=`` in any of its printed forms.

    These are ``{{0,1},{2,3}}``, ``{}`` (all devices), iota ``[4,2]<=[2,4]T(1,0)`` (reshape
    0..7 to 2x4, transpose, reshape to four groups of two), and axes of a mesh of XLA's own naming,
    ``mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'a','b':(2)2}``.

    Args:
        text: The attribute's text.
        partitions: Number of devices of the program.

    Raises:
        HloFormatError: If it has none of these forms.
    """
    text = text.strip()
    if _LISTS.fullmatch(text):
        return _lists(text) or (tuple(range(partitions)),)
    if iota := _IOTA.match(text):
        return _as_groups(_iota(iota).reshape(_ints(iota[1])))
    mesh = _MESH.match(text)
    if mesh is None:
        raise HloFormatError(f"replica groups of an unknown form: {text!r}")
    axes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh[1])}
    sizes = tuple(axes.values())
    ids = np.arange(np.prod(sizes, dtype=np.int64))
    if mesh[2]:
        order = _IOTA.match(mesh[2])
        ids = np.array(_ints(mesh[2])) if order is None else _iota(order)
    names = list(axes)
    refs: list[_AxisRef] = []
    for name, pre, size in _AXIS_REF.findall(mesh[3]):
        if name not in axes:
            raise HloFormatError(f"replica groups name an axis {name!r} that is not in {text!r}")
        whole = not size
        refs.append(_AxisRef(names.index(name), 1 if whole else int(pre), int(size or axes[name])))
    return _expand(ids.reshape(sizes), refs)


def parse_pairs(text: str) -> Groups:
    """Read ``source_target_pairs={{0,1},{1,0}}``."""
    pairs = _lists(text)
    if not _LISTS.fullmatch(text.strip()) or any(len(pair) != 2 for pair in pairs):
        raise HloFormatError(f"source-target pairs of an unknown form: {text!r}")
    return pairs


def axes_of_groups(groups: Groups, mesh: MeshAxes) -> tuple[str, ...]:
    """The mesh axes that groups span, in the mesh's order.

    The answer is exact: the groups that it stands for are the groups given, all of them. Part of
    an axis is written as Shardy does, ``data:(2)4`` for the inner part of size 4 under 2 coarser
    steps; groups that are no product of axes and one such part per axis give ``("?",)``; groups of
    one device give ``()``. Axes of size one span nothing and never appear.
    """
    ids = np.array(mesh.positions).reshape(mesh.sizes)
    _check_ids(groups, mesh)
    coordinates = np.argwhere(np.isin(ids, groups[0]))  # one row per member
    refs: list[_AxisRef] = []
    for axis, size in enumerate(mesh.sizes):
        steps = sorted(set(coordinates[:, axis].tolist()))
        if len(steps) == 1:
            continue
        stride = steps[1] - steps[0]
        if size % (len(steps) * stride):
            return (IRREGULAR,)
        refs.append(_AxisRef(axis, size // (len(steps) * stride), len(steps)))
    if set(map(frozenset, _expand(ids, refs))) != set(map(frozenset, groups)):
        return (IRREGULAR,)
    return tuple(
        mesh.names[ref.index]
        if ref.size == mesh.sizes[ref.index]
        else f"{mesh.names[ref.index]}:({ref.pre}){ref.size}"
        for ref in refs
    )


def axes_of_pairs(pairs: Groups, mesh: MeshAxes) -> tuple[str, ...]:
    """The mesh axes along which a collective-permute moves data, in the mesh's order."""
    _check_ids(pairs, mesh)
    coordinates = np.empty((mesh.size, len(mesh.sizes)), dtype=np.int64)
    places = np.indices(mesh.sizes).reshape(len(mesh.sizes), -1).T
    coordinates[list(mesh.positions)] = places
    moved = [coordinates[source] != coordinates[target] for source, target in pairs]
    along = np.any(moved, axis=0) if moved else np.zeros(len(mesh.sizes), dtype=bool)
    return tuple(name for name, moves in zip(mesh.names, along, strict=True) if moves)


def _expand(ids: np.ndarray, refs: Iterable[_AxisRef]) -> Groups:
    """The groups of devices that differ in nothing but the given parts of the axes."""
    refs = list(refs)
    dims: list[int] = []
    place: dict[tuple[int, int], int] = {}  # (axis, pre) -> dimension after splitting the axes
    for axis, size in enumerate(ids.shape):
        mine = [ref for ref in refs if ref.index == axis]
        cuts = sorted({1, size, *(c for ref in mine for c in (ref.pre, ref.pre * ref.size))})
        if any(b % a for a, b in itertools.pairwise(cuts)):
            raise HloFormatError(f"sub-axes {mine} do not divide an axis of size {size}")
        for a, b in itertools.pairwise(cuts):
            place[axis, a] = len(dims)
            dims.append(b // a)
    inner = [place[ref.index, ref.pre] for ref in refs if ref.size > 1]
    outer = [d for d in range(len(dims)) if d not in inner]
    members = int(np.prod([dims[d] for d in inner], dtype=np.int64))
    return _as_groups(ids.reshape(dims).transpose(outer + inner).reshape(-1, members))


def _check_ids(groups: Groups, mesh: MeshAxes) -> None:
    largest = max((i for group in groups for i in group), default=0)
    if largest >= mesh.size:
        raise HloMeshError(
            f"the program speaks of device {largest}, but the mesh has {mesh.size} devices"
        )


def _iota(match: re.Match[str]) -> np.ndarray:
    """``[4,2]<=[2,4]T(1,0)``, or ``[2,4]T(1,0)`` as inside a mesh's device ids."""
    source = _ints(match[2] or match[1])
    ids = np.arange(np.prod(source, dtype=np.int64)).reshape(source)
    return (ids.transpose(_ints(match[3])) if match[3] else ids).reshape(-1)


def _lists(text: str) -> Groups:
    return tuple(_ints(group) for group in re.findall(r"\{([\d,\s]+)\}", text))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _as_groups(array: np.ndarray) -> Groups:
    return tuple(map(tuple, array.tolist()))
