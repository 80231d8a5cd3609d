"""safetensors: a length, a JSON header, raw arrays; and the index of a checkpoint in many files.

The format: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.checkpoint._tensors import TensorInfo
from autoshard.checkpoint.layouts._names import pattern
from autoshard.checkpoint.layouts.formats._region_sink import FilePlan, RegionSink
from autoshard.checkpoint.layouts.formats._regions import FilePool, Region, RegionSource
from autoshard.errors import CheckpointLeafError, ForeignFileError

_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        **{f"{kind}{bits}": np.dtype(f"<{kind.lower()}{bits // 8}")
           for kind, widths in (("I", (8, 16, 32, 64)), ("U", (8, 16, 32, 64)), ("F", (16, 32, 64)))
           for bits in widths},
        "C64": np.dtype("<c8"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    }
)  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_MOST_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
INDEX = "model.safetensors.index.json"


def open_safetensors(path: Path) -> RegionSource:
    """One file, or a directory with an index or a single ``*.safetensors``.

    Args:
        path: The file, the index, or the directory.

    Raises:
        ForeignFileError: A file is damaged, or is not what the index says.
    """
    folder = path if path.is_dir() else path.parent
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if path.is_dir() or path.name.endswith(".index.json"):
        if index is not None:
            regions, pool, metadata = _indexed(index)
        else:
            files = sorted(folder.glob("*.safetensors"))
            if len(files) != 1:
                raise ForeignFileError(
                    path,
                    f"has {len(files)} safetensors files and no index",
                    f"bring {INDEX} along, or name one file",
                )
            regions, metadata, pool = *_header(pool := FilePool(), files[0]), pool
    else:
        regions, metadata, pool = *_header(pool := FilePool(), path), pool
    described: dict[str, Any] = {"safetensors": metadata} if metadata else {}
    if (config := folder / "config.json").exists():
        described["config"] = _json(config, config.read_bytes())
    return RegionSource(regions, metadata=described, pool=pool)


def _indexed(index: Path) -> tuple[dict[str, Region], FilePool, dict[str, Any]]:
    table = _json(index, index.read_bytes())
    where: Any = table.get("weight_map")
    if not isinstance(where, dict):
        raise ForeignFileError(index, "has no weight_map")
    pool = FilePool()
    regions: dict[str, Region] = {}
    for file in sorted(set(where.values())):
        path = index.parent / file
        if not path.is_file() or Path(file).is_absolute() or ".." in Path(file).parts:
            raise ForeignFileError(index, f"names {file}, which is not there")
        found, _ = _header(pool, path)
        for name, region in found.items():
            if where.get(name) != file:
                told = where.get(name, "nowhere")
                raise ForeignFileError(index, f"says that {name} is {told}, but it is in {file}")
            regions[name] = region
    if missing := [name for name in where if name not in regions]:
        raise ForeignFileError(index, f"names {missing[0]}, which is not in {where[missing[0]]}")
    return regions, pool, {}


def _header(pool: FilePool, path: Path) -> tuple[dict[str, Region], dict[str, Any]]:
    size = path.stat().st_size
    if size < 8:
        raise ForeignFileError(path, f"has {size} bytes: too short for safetensors")
    (length,) = struct.unpack("<Q", pool.read(path, 0, 8))
    if length > min(_MOST_HEADER_BYTES, size - 8):
        raise ForeignFileError(path, f"announces a header of {length} bytes, but has {size} in all")
    header = _json(path, pool.read(path, 8, length))
    metadata: Any = header.pop("__metadata__", {})
    start = 8 + length
    regions = {name: _region(path, name, entry, start) for name, entry in header.items()}
    end = start
    for region in sorted(regions.values(), key=lambda r: (r.offset, r.nbytes)):
        if region.offset != end:
            raise ForeignFileError(path, f"has a gap or an overlap at byte {end}")
        end += region.nbytes
    if end != size:
        raise ForeignFileError(path, f"should have {end} bytes by its header, and has {size}")
    return regions, metadata


def _region(path: Path, name: str, entry: Any, start: int) -> Region:
    try:
        dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ForeignFileError(path, f"describes {name} as {entry!r:.80}") from error
    if dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ForeignFileError(
            path, f"holds {name} as {dtype}; known: {known}", "save it as a known type"
        )
    region = Region(path=path, offset=start + first, shape=shape, dtype=_DTYPES[dtype])
    if min(shape, default=0) < 0 or last - first != region.nbytes:
        raise ForeignFileError(
            path, f"gives {name}, {dtype}{list(shape)}, {last - first} bytes: not as many as it has"
        )
    return region


def _json(path: Path, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands there twice")
        return found

    try:
        found = json.loads(data, object_pairs_hook=unique)
    except ValueError as error:  # of JSON, of UTF-8
        raise ForeignFileError(path, f"has a header that is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ForeignFileError(path, "has a header that is no JSON object")
    return found


class SafetensorsSink(RegionSink):
    """Writes one file, or a directory of them with an index.

    Args:
        path: A path that ends in ``.safetensors``, or a directory to be made.
        journal: As in `RegionSink`.
        block_bytes: As in `RegionSink`.
        max_shard_bytes: Most bytes of tensors in one file of a directory.
        files: Patterns of file names, where the names of tensors begin with those of their files.
    """

    def __init__(
        self,
        path: Path,
        *,
        journal: bool = False,
        block_bytes: int = 8 << 20,
        max_shard_bytes: int = 5 * 10**9,
        files: Sequence[str] = (),
    ) -> None:
        super().__init__(path, journal=journal, block_bytes=block_bytes)
        self._max_shard_bytes = max_shard_bytes
        self._patterns = tuple(pattern(f"{text}/{{_name:*}}") for text in files)

    @property
    def single_file(self) -> bool:
        """Whether the path names a file."""
        return self.path.suffix == ".safetensors"

    def plan(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, Any]) -> list[FilePlan]:
        """One file for every `max_shard_bytes`, the index, and the model's configuration."""
        for name, info in infos.items():
            if info.dtype.newbyteorder("<") not in _NAMES:
                raise CheckpointLeafError(name, f"an array of {info.dtype.name}, as safetensors,")
        said = {"format": "pt", **metadata.get("safetensors", {})}
        if self._patterns:
            return self._by_file(infos, said)
        if self.single_file:
            return [_file(self.path.name, infos, said)]
        shards = _shards(infos, self._max_shard_bytes)
        total = len(shards)
        names = (
            ["model.safetensors"]
            if total == 1
            else [f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)]
        )
        plans = [_file(name, shard, said) for name, shard in zip(names, shards, strict=True)]
        if total > 1:
            where = {n: name for name, s in zip(names, shards, strict=True) for n in s}
            size = sum(info.nbytes for info in infos.values())
            table = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
            plans.append(_text(INDEX, table))
        if (config := metadata.get("config")) is not None:
            plans.append(_text("config.json", config))
        return plans

    def _by_file(
        self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]
    ) -> list[FilePlan]:
        """A file for each rank; regions keep the names that tensors were declared by."""
        groups: dict[str, dict[str, TensorInfo]] = {}
        for full, info in infos.items():
            keys = next(keys for p in self._patterns if (keys := p.match(full)) is not None)
            name = str(keys["_name"])
            groups.setdefault(full.removesuffix(f"/{name}"), {})[name] = info
        plans = [_file(file, group, metadata) for file, group in groups.items()]
        return [
            replace(plan, regions={f"{plan.name}/{n}": r for n, r in plan.regions.items()})
            for plan in plans
        ]


def _shards(infos: Mapping[str, TensorInfo], most: int) -> list[dict[str, TensorInfo]]:
    shards: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = info
        size += info.nbytes
    return shards


def _file(name: str, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> FilePlan:
    # Wide types first, as the reference implementation does: so every array is aligned.
    ordered = sorted(infos.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    places: dict[str, int] = {}
    end = 0
    for tensor, info in ordered:
        kind = _NAMES[info.dtype.newbyteorder("<")]
        places[tensor] = end
        end += info.nbytes
        header[tensor] = {
            "dtype": kind,
            "shape": list(info.shape),
            "data_offsets": [places[tensor], end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    regions = {
        tensor: Region(
            path=Path(name),
            offset=start + places[tensor],
            shape=info.shape,
            dtype=info.dtype.newbyteorder("<"),
        )
        for tensor, info in infos.items()
    }
    literals = {0: struct.pack("<Q", len(text)) + text}
    return FilePlan(name=name, nbytes=start + end, literals=literals, regions=regions)


def _text(name: str, value: Any) -> FilePlan:
    data = (json.dumps(value, indent=2) + "\n").encode()
    return FilePlan(name=name, nbytes=len(data), literals={0: data})
