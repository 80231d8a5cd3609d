"""NumPy's npz: a zip file of npy files."""

import ast
import io
import json
import math
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo
from autoshard.checkpoint.layouts._parameters import dtype_of
from autoshard.checkpoint.layouts.formats._region_sink import FilePlan, RegionSink
from autoshard.checkpoint.layouts.formats._regions import FilePool, Region, RegionSource, Seal
from autoshard.checkpoint.layouts.formats._zip import Member, members
from autoshard.checkpoint.layouts.formats._zip_writer import Entry, ZipPlan
from autoshard.errors import ForeignFileError

_TYPES = "autoshard_dtypes.json"
"""A member that names the types that npy files cannot: bfloat16 and its like."""


class NpzSource(RegionSource):
    """An npz file; compressed arrays are unpacked as they stream by."""

    def __init__(
        self,
        regions: Mapping[str, Region],
        packed: Mapping[str, tuple[Region, str]],
        path: Path,
        pool: FilePool,
    ) -> None:
        super().__init__(regions, pool=pool)
        self._packed = dict(packed)
        self._path = path
        self._streams: dict[str, IO[bytes]] = {}
        self._archive: zipfile.ZipFile | None = None
        self._lock = threading.Lock()

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors."""
        rows = {
            name: TensorInfo(shape=region.shape, dtype=region.dtype.newbyteorder("="))
            for name, (region, _) in self._packed.items()
        }
        return {**super().tensors(), **rows}

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece. Of a compressed array, reading in order of rows unpacks it only once."""
        if name not in self._packed:
            return super().read(name, index)
        region, member = self._packed[name]
        order = region.order or tuple(range(len(region.shape)))
        stored = tuple(index[dim] for dim in order)
        shape = tuple(region.shape[dim] for dim in order)
        row = math.prod(shape[1:]) * region.dtype.itemsize
        first, last = (stored[0].start, stored[0].stop) if shape else (0, 1)
        with self._lock:
            data = self._unpacked(member, region.offset + first * row, (last - first) * row)
        rows = np.frombuffer(data, region.dtype).reshape(
            (last - first, *shape[1:]) if shape else ()
        )
        piece = rows[(slice(None), *stored[1:])] if shape else rows
        back = sorted(range(len(order)), key=order.__getitem__)
        native = piece.transpose(back).astype(region.dtype.newbyteorder("="), order="C")
        return native

    def _unpacked(self, member: str, start: int, count: int) -> bytes:
        try:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self._path)
            stream = self._streams.get(member)
            if stream is None or stream.tell() > start:
                stream = self._streams[member] = self._archive.open(member)
            while stream.tell() < start:
                stream.read(min(1 << 20, start - stream.tell()))
            data = stream.read(count)
            # At the end zipfile compares the checksum; one byte more makes it see the end.
            stream.read(1) if stream.tell() == self._archive.getinfo(member).file_size else None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ForeignFileError(self._path, f"cannot be unpacked: {error}") from error
        if len(data) != count:
            raise ForeignFileError(self._path, f"has too few bytes in {member}")
        return data

    def close(self) -> None:
        """Closes the file."""
        super().close()
        for stream in self._streams.values():
            stream.close()
        if self._archive is not None:
            self._archive.close()


def open_npz(path: Path, *, verify: bool = True) -> NpzSource:
    """Opens an npz file.

    Args:
        path: The file.
        verify: Whether the checksums that zip files keep are compared.

    Raises:
        ForeignFileError: It is damaged, or holds pickled objects.
    """
    pool = FilePool()
    found = members(path)
    types: dict[str, str] = {}
    if _TYPES in found:
        data = pool.read(path, found[_TYPES].offset, found[_TYPES].nbytes)
        types = json.loads(data)
    regions: dict[str, Region] = {}
    packed: dict[str, tuple[Region, str]] = {}
    for member in found.values():
        if not member.name.endswith(".npy"):
            continue
        name = member.name.removesuffix(".npy")
        region = _region(pool, path, member, types.get(name), verify=verify)
        if member.packed:
            packed[name] = (region, member.name)
        else:
            regions[name] = region
    return NpzSource(regions, packed, path, pool)


def _region(
    pool: FilePool, path: Path, member: Member, kind: str | None, *, verify: bool
) -> Region:
    if member.packed:
        with zipfile.ZipFile(path) as archive, archive.open(member.name) as stream:
            head = stream.read(min(member.nbytes, 64 << 10))
    else:
        head = pool.read(path, member.offset, min(member.nbytes, 64 << 10))
    shape, dtype, fortran, start = _npy_header(path, member.name, head)
    if kind is not None:
        dtype = dtype_of(kind)
    elif dtype.kind == "V":
        raise ForeignFileError(
            path,
            f"holds {member.name} as {dtype.itemsize} nameless bytes per element (bfloat16?)",
            "view it as its type and save it with autoshard, or save it as float32",
        )
    if dtype.hasobject:
        raise ForeignFileError(path, f"holds {member.name} as pickled objects", "save arrays alone")
    if start + math.prod(shape) * dtype.itemsize != member.nbytes:
        raise ForeignFileError(path, f"has {member.nbytes} bytes for {member.name}, not as shaped")
    seal = Seal(offset=member.offset, nbytes=member.nbytes, crc=member.crc, what=member.name)
    return Region(
        path=path,
        offset=start if member.packed else member.offset + start,
        shape=shape,
        dtype=dtype,
        order=tuple(reversed(range(len(shape)))) if fortran else None,
        seal=seal if verify and not member.packed else None,
    )


def _npy_header(
    path: Path, name: str, head: bytes
) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, whether in Fortran order, and where the data start."""
    found = re.match(rb"\x93NUMPY(.)(.)", head, re.DOTALL)
    if found is None or found[1] not in (b"\x01", b"\x02", b"\x03"):
        raise ForeignFileError(path, f"holds {name}, which is no npy file")
    wide = found[1] != b"\x01"
    (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
    start = (12 if wide else 10) + length
    try:
        header = ast.literal_eval(head[12 if wide else 10 : start].decode("latin1").strip())
        dtype = np.dtype(header["descr"])
        return tuple(header["shape"]), dtype, bool(header["fortran_order"]), start
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise ForeignFileError(path, f"holds {name} with a damaged header: {error}") from error


class NpzSink(RegionSink):
    """Writes an uncompressed npz file, with zip64 records throughout."""

    @property
    def single_file(self) -> bool:
        """It is a file."""
        return True

    def plan(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, Any]) -> list[FilePlan]:
        """One file."""
        del metadata
        entries = [
            Entry(name=f"{name}.npy", head=_npy(info), nbytes=info.nbytes)
            for name, info in infos.items()
        ]
        types = {n: i.dtype.name for n, i in infos.items() if np.dtype(i.dtype.str) != i.dtype}
        if types:
            entries.append(Entry(name=_TYPES, head=json.dumps(types).encode()))
        self._zip = ZipPlan(tuple(entries))
        path = Path(self.path.name)
        places = zip(infos.items(), self._zip.array_offsets(), strict=False)
        return [
            FilePlan(
                name=self.path.name,
                nbytes=self._zip.nbytes(),
                literals=self._zip.literals(),
                regions={
                    name: Region(path=path, offset=at, shape=info.shape, dtype=info.dtype)
                    for (name, info), at in places
                },
            )
        ]

    def finish_file(self, plan: FilePlan, descriptor: int) -> None:
        """Writes the checksums, now that all members are there."""
        path = self.staging / plan.name
        self._zip.finish(
            descriptor,
            lambda at, data: self._files.write_at(descriptor, memoryview(data), at, path),
        )


def _npy(info: TensorInfo) -> bytes:
    buffer = io.BytesIO()
    known = np.dtype(info.dtype.str) == info.dtype
    header = {
        "descr": info.dtype.str if known else f"|V{info.dtype.itemsize}",
        "fortran_order": False,
        "shape": info.shape,
    }
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()
