"""What `torch.save` writes since version 1.6: a zip file of a pickle and storages."""

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoshard.checkpoint._tensors import join_path
from autoshard.checkpoint.layouts.formats._regions import FilePool, Region, RegionSource, Seal
from autoshard.checkpoint.layouts.formats._torch_pickle import (
    Opaque,
    TorchTensor,
    read_pickle,
)
from autoshard.checkpoint.layouts.formats._zip import Member, members
from autoshard.errors import ForeignFileError

_MOST_PICKLE_BYTES = 1 << 30


def open_torch(path: Path, *, opaque: Collection[str] = (), verify: bool = True) -> RegionSource:
    """Opens a file of `torch.save`. Tensors are named by their keys, joined by ``/``.

    Args:
        path: The file.
        opaque: Globals of the pickle whose objects are left out.
        verify: Whether the checksums that zip files keep are compared.

    Raises:
        UnsafePickleError: The pickle holds more than tensors, containers and plain values.
        ForeignFileError: The file is damaged, or of an older kind.
    """
    found = members(path)
    pickles = [name for name in found if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ForeignFileError(
            path, "holds no data.pkl: it is no file of torch.save, or a TorchScript archive"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    pool = FilePool()
    entry = found[pickles[0]]
    if entry.packed or entry.nbytes > _MOST_PICKLE_BYTES:
        raise ForeignFileError(path, "has a pickle that is compressed or larger than 1 GiB")
    pool.check(path, _seal(entry))
    content = read_pickle(pool.read(path, entry.offset, entry.nbytes), path, opaque)
    big = f"{prefix}byteorder" in found and _text(pool, path, found[f"{prefix}byteorder"]) == "big"
    regions: dict[str, Region] = {}
    values: dict[str, Any] = {}
    for parts, leaf in _leaves(content):
        name = join_path(parts)
        if isinstance(leaf, TorchTensor):
            regions[name] = _region(path, name, leaf, found, prefix, big=big, verify=verify)
        elif not isinstance(leaf, Opaque):
            values[name] = leaf
    return RegionSource(regions, values=values, pool=pool)


def _text(pool: FilePool, path: Path, member: Member) -> str:
    return pool.read(path, member.offset, member.nbytes).decode(errors="replace")


def _seal(member: Member) -> Seal:
    return Seal(offset=member.offset, nbytes=member.nbytes, crc=member.crc, what=member.name)


def _leaves(value: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All leaves with their keys. Tuples of plain numbers are one leaf: they are shapes."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*parts, str(key)))
    elif isinstance(value, list) or (
        isinstance(value, tuple) and not all(isinstance(item, int) for item in value)
    ):
        for number, item in enumerate(value):
            yield from _leaves(item, (*parts, str(number)))
    else:
        yield parts, value


def _region(
    path: Path,
    name: str,
    tensor: TorchTensor,
    found: Mapping[str, Member],
    prefix: str,
    *,
    big: bool,
    verify: bool,
) -> Region:
    member = found.get(f"{prefix}data/{tensor.storage.key}")
    size = math.prod(tensor.shape)
    if member is None or member.packed:
        state = "missing" if member is None else "compressed"
        raise ForeignFileError(
            path, f"has {name} in storage {tensor.storage.key}, which is {state}"
        )
    order = _order(path, name, tensor) if size else None
    start = tensor.offset * tensor.dtype.itemsize
    if start + size * tensor.dtype.itemsize > member.nbytes:
        raise ForeignFileError(
            path, f"has {name} reach beyond its storage of {member.nbytes} bytes"
        )
    return Region(
        path=path,
        offset=member.offset + start,
        shape=tensor.shape,
        dtype=tensor.dtype.newbyteorder(">" if big else "<"),
        order=order,
        seal=_seal(member) if verify else None,
    )


def _order(path: Path, name: str, tensor: TorchTensor) -> tuple[int, ...] | None:
    """The order in which dimensions lie in the storage; None for C order."""
    rank = len(tensor.shape)
    order = sorted(range(rank), key=lambda dim: (-tensor.stride[dim], dim))
    expected = 1
    for dim in reversed(order):
        if tensor.shape[dim] == 1:
            continue
        if tensor.stride[dim] != expected:
            raise ForeignFileError(
                path,
                f"has {name} as a view with gaps (shape {list(tensor.shape)}, stride "
                f"{list(tensor.stride)})",
                "save tensor.contiguous()",
            )
        expected *= tensor.shape[dim]
    return None if order == list(range(rank)) else tuple(order)
