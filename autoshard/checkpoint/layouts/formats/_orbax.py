"""Plain orbax checkpoints, read array by array through tensorstore."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, join_path
from autoshard.errors import CheckpointError, ForeignFileError

ITEMS = ("state", "default", "params", "items")
"""Folders in which the writers of orbax put the tree."""


class OrbaxSource:
    """An orbax checkpoint of any writer (v0, v1; zarr 2 and 3; OCDBT or files).

    Leaves have the paths of their keys. Values that orbax keeps as JSON are left to it.

    Args:
        path: The checkpoint: a directory with `_METADATA` in it or in its item.
    """

    def __init__(self, path: Path) -> None:
        folder = tree_folder(path)
        if folder is None:
            raise ForeignFileError(path, "holds no orbax tree: no _METADATA in it or in its item")
        self._folder = folder
        try:
            metadata = json.loads((folder / "_METADATA").read_bytes())
            leaves = metadata["tree_metadata"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ForeignFileError(folder / "_METADATA", f"cannot be read: {error}") from error
        self._zarr3 = bool(metadata.get("use_zarr3", False))
        self._ocdbt = (folder / "manifest.ocdbt").exists()
        self._values: dict[str, Any] = {}
        self._stores: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._context: Any = None
        self._infos: dict[str, TensorInfo] = {}
        wanted = [
            (join_path([str(key["key"]) for key in leaf["key_metadata"]]), leaf)
            for leaf in leaves.values()
        ]
        self._open_all(wanted)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All arrays."""
        return self._infos

    def values(self) -> Mapping[str, Any]:
        """None, and empty containers."""
        return self._values

    def metadata(self) -> Mapping[str, Any]:
        """Nothing that every writer agrees upon."""
        return {}

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece of an array."""
        if name not in self._stores:
            raise CheckpointError(name, "is no array of this checkpoint", "autoshard ckpt show")
        try:
            return np.array(self._stores[name][index].read().result(), order="C", copy=None)
        except ValueError as error:
            raise ForeignFileError(self._folder, f"cannot read {name}: {error!s:.200}") from error

    def close(self) -> None:
        """Lets go of everything."""
        self._stores.clear()

    def _open_all(self, wanted: list[tuple[str, Any]]) -> None:
        import tensorstore as ts

        # A context of its own: a shared one grows with everything that was ever read.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        opened: list[tuple[str, Any]] = []
        for name, leaf in wanted:
            kind = leaf.get("value_metadata", {}).get("value_type", "jax.Array")
            if kind in ("None", "Dict", "List", "Tuple"):
                self._values[name] = {"None": None, "Dict": {}, "List": [], "Tuple": []}[kind]
                continue
            stored = ".".join(str(key["key"]) for key in leaf["key_metadata"])
            future = ts.open(self._spec(stored), open=True, read=True, context=self._context)
            opened.append((name, future))
        for name, future in opened:
            try:
                store = future.result()
            except ValueError as error:
                raise ForeignFileError(
                    self._folder, f"cannot open {name}: {error!s:.200}"
                ) from error
            self._stores[name] = store
            chunk = store.chunk_layout.read_chunk.shape
            block = tuple(
                min(c or n, n) or 1 for c, n in zip(chunk or store.shape, store.shape, strict=True)
            )
            self._infos[name] = TensorInfo(
                shape=tuple(store.shape), dtype=np.dtype(store.dtype.numpy_dtype), block=block
            )

    def _spec(self, name: str) -> dict[str, Any]:
        base = f"file://{self._folder.resolve().as_posix()}/"
        kvstore: Any = (
            {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            if self._ocdbt
            else {"driver": "file", "path": f"{(self._folder / name).resolve().as_posix()}/"}
        )
        return {"driver": "zarr3" if self._zarr3 else "zarr", "kvstore": kvstore}


def tree_folder(path: Path) -> Path | None:
    """The folder of an orbax checkpoint that holds the tree."""
    for folder in (path, *(path / item for item in ITEMS)):
        if (folder / "_METADATA").is_file():
            return folder
    return None
