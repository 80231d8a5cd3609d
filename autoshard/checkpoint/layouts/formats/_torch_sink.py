"""Writing what `torch.load(weights_only=True)` reads, without torch."""

import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import TensorInfo, split_path
from autoshard.checkpoint.layouts._names import pattern
from autoshard.checkpoint.layouts.formats._region_sink import FilePlan, RegionSink
from autoshard.checkpoint.layouts.formats._regions import Region
from autoshard.checkpoint.layouts.formats._torch_pickle import DTYPES, STORAGES
from autoshard.checkpoint.layouts.formats._zip_writer import Entry, ZipPlan
from autoshard.errors import CheckpointLeafError

_STORAGE_OF = {DTYPES[dtype]: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


class TorchSink(RegionSink):
    """Writes a file of nested dicts of tensors, or several where tensors are named by files.

    Args:
        path: The file; a directory where there are `files`.
        journal: As in `RegionSink`.
        block_bytes: As in `RegionSink`.
        files: Patterns of file names, where the names of tensors begin with those of their files.
    """

    def __init__(
        self,
        path: Path,
        *,
        journal: bool = False,
        block_bytes: int = 8 << 20,
        files: Sequence[str] = (),
    ) -> None:
        super().__init__(path, journal=journal, block_bytes=block_bytes)
        self._patterns = tuple(pattern(f"{text}/{{_name:*}}") for text in files)
        self._zips: dict[str, ZipPlan] = {}

    @property
    def single_file(self) -> bool:
        """Whether the path is that of a file."""
        return not self._patterns

    def plan(self, infos: Mapping[str, TensorInfo], metadata: Mapping[str, Any]) -> list[FilePlan]:
        """One file, or one for each rank."""
        del metadata
        for name, info in infos.items():
            if info.dtype not in _NAME_OF:
                raise CheckpointLeafError(name, f"an array of {info.dtype.name}, for torch,")
        if not self._patterns:
            return [self._file(self.path.name, {name: name for name in infos}, infos)]
        groups: dict[str, dict[str, str]] = {}
        for full in infos:
            keys = next(keys for p in self._patterns if (keys := p.match(full)) is not None)
            name = str(keys["_name"])
            groups.setdefault(full.removesuffix(f"/{name}"), {})[name] = full
        return [self._file(file, names, infos) for file, names in groups.items()]

    def _file(
        self, file: str, names: Mapping[str, str], infos: Mapping[str, TensorInfo]
    ) -> FilePlan:
        """A file of tensors, by their names in it and in `infos`."""
        prefix = Path(file).stem
        numbers = {name: number for number, name in enumerate(names)}
        tree: dict[str, Any] = {}
        for name, full in names.items():
            *folders, last = split_path(name)
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
                if not isinstance(node, dict):
                    raise CheckpointLeafError(full, "a leaf below another leaf")
            node[last] = (str(numbers[name]), infos[full])
        arrays = [
            Entry(name=f"{prefix}/data/{numbers[name]}", head=b"", nbytes=infos[full].nbytes)
            for name, full in names.items()
        ]
        others = [
            Entry(name=f"{prefix}/data.pkl", head=_pickled(tree)),
            Entry(name=f"{prefix}/byteorder", head=b"little"),
        ]
        version = Entry(name=f"{prefix}/version", head=b"3\n")
        zipped = self._zips[file] = ZipPlan((*others, *arrays, version))
        offsets = zipped.array_offsets()[len(others) :]
        return FilePlan(
            name=file,
            nbytes=zipped.nbytes(),
            literals=zipped.literals(),
            regions={
                full: Region(
                    path=Path(file),
                    offset=at,
                    shape=infos[full].shape,
                    dtype=infos[full].dtype.newbyteorder("<"),
                )
                for full, at in zip(names.values(), offsets, strict=False)
            },
        )

    def finish_file(self, plan: FilePlan, descriptor: int) -> None:
        """Writes the checksums, now that all members are there."""
        path = self.staging / plan.name
        self._zips[plan.name].finish(
            descriptor,
            lambda at, data: self._files.write_at(descriptor, memoryview(data), at, path),
        )


def _pickled(tree: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(pickle.PROTO + b"\x02")
    _dict(out, tree)
    out.write(pickle.STOP)
    return out.getvalue()


def _dict(out: io.BytesIO, tree: Mapping[str, Any]) -> None:
    out.write(pickle.EMPTY_DICT + pickle.MARK)
    for key, value in tree.items():
        _text(out, key)
        if isinstance(value, dict):
            _dict(out, value)
        else:
            _tensor(out, *value)
    out.write(pickle.SETITEMS)


def _tensor(out: io.BytesIO, key: str, info: TensorInfo) -> None:
    storage = _STORAGE_OF.get(info.dtype)
    version = "v3" if storage is None else "v2"
    _global(out, "torch._utils", f"_rebuild_tensor_{version}")
    out.write(pickle.MARK)
    out.write(pickle.MARK)
    _text(out, "storage")
    if storage is None:  # types that came after storages had types
        _global(out, "torch.storage", "UntypedStorage")
    else:
        _global(out, "torch", storage)
    _text(out, key)
    _text(out, "cpu")
    _integer(out, info.nbytes if storage is None else info.size)
    out.write(pickle.TUPLE + pickle.BINPERSID)
    _integer(out, 0)
    _integers(out, info.shape)
    strides = np.cumprod([1, *reversed(info.shape[1:])])[::-1] if info.shape else []
    _integers(out, [int(n) for n in strides])
    out.write(pickle.NEWFALSE)
    _global(out, "collections", "OrderedDict")
    out.write(pickle.EMPTY_TUPLE + pickle.REDUCE)
    if storage is None:
        _global(out, "torch", _NAME_OF[info.dtype])
    out.write(pickle.TUPLE + pickle.REDUCE)


def _text(out: io.BytesIO, text: str) -> None:
    data = text.encode()
    out.write(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)


def _global(out: io.BytesIO, module: str, name: str) -> None:
    out.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())


def _integer(out: io.BytesIO, value: int) -> None:
    data = pickle.encode_long(value)
    out.write(pickle.LONG1 + bytes([len(data)]) + data)


def _integers(out: io.BytesIO, values: Sequence[int]) -> None:
    out.write(pickle.MARK)
    for value in values:
        _integer(out, value)
    out.write(pickle.TUPLE)
