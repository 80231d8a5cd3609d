"""The manifest: what a checkpoint holds, leaf by leaf."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Role, TensorInfo
from autoshard.checkpoint._tiles import Shape, canonical_tile
from autoshard.checkpoint._tree import Key
from autoshard.checkpoint._zarr import ArrayFormat, dtype_of
from autoshard.errors import CheckpointVersionError

SCHEMA_VERSION = 1
SIDECAR = "autoshard"
STATE = "state"


class Storage(enum.StrEnum):
    """Where the content of a leaf is."""

    ARRAY = "array"  # an array that orbax reads
    RAW = "raw"  # an array of a type that orbax does not know, as bytes
    EMPTY = "empty"  # an array without elements: its shape says all
    VALUE = "value"  # no array: in the manifest


class Container(enum.StrEnum):
    """What kind of array a leaf was."""

    JAX = "jax"
    NUMPY = "numpy"
    KEY = "key"  # a typed array of PRNG keys; the shape is that of its uint32 data
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafEntry:
    """One leaf of a checkpoint.

    Args:
        path: Its path.
        keys: The way to it.
        storage: Where its content is.
        container: What it was.
        dtype: Name of its element type; empty for values.
        shape: Its shape.
        tile: Shape of its tiles; empty where there are none.
        block: Shape of what shares a file.
        digest: Digest of its content, on whatever mesh it lay.
        weak_type: Whether jax may promote it like a Python number.
        prng_impl: Name of the generator, for keys.
        role: What it is to the run.
        logical_axes: Names of its dimensions, where Flax knew them.
        spec: Mesh axes per dimension on the mesh that it was saved from.
        value: The content of a value.
    """

    path: str
    keys: tuple[Key, ...]
    storage: Storage
    container: Container = Container.NONE
    dtype: str = ""
    shape: Shape = ()
    tile: Shape = ()
    block: Shape = ()
    digest: str = ""
    weak_type: bool = False
    prng_impl: str | None = None
    role: Role = Role.OTHER
    logical_axes: tuple[str | None, ...] | None = None
    spec: tuple[tuple[str, ...], ...] | None = None
    value: Mapping[str, Any] | None = None

    @property
    def has_files(self) -> bool:
        """Whether it is an array in files."""
        return self.storage in (Storage.ARRAY, Storage.RAW)

    @property
    def is_array(self) -> bool:
        """Whether it is an array at all."""
        return self.storage is not Storage.VALUE

    @property
    def element(self) -> np.dtype[Any]:
        """The element type of an array."""
        return dtype_of(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the content in memory."""
        return self.info().nbytes if self.is_array else 0

    @property
    def name(self) -> str:
        """The name that orbax gives it."""
        return ".".join(key.text for key in self.keys)

    @property
    def directory(self) -> str:
        """Its directory below the checkpoint."""
        if self.storage is Storage.RAW:
            return f"{SIDECAR}/arrays/{self.name}"
        return f"{STATE}/{self.name}"

    @property
    def format(self) -> ArrayFormat:
        """How it lies in files. Elements that orbax does not know are stored as bytes."""
        dtype = self.element
        if self.storage is Storage.RAW:
            dtype = np.dtype(f"u{dtype.itemsize}")
        return ArrayFormat(self.shape, dtype, self.tile, self.block)

    @property
    def canonical(self) -> Shape:
        """The tile over which its digest is taken."""
        return canonical_tile(self.shape, self.element.itemsize)

    def info(self) -> TensorInfo:
        """The leaf as formats see it."""
        return TensorInfo(
            shape=self.shape,
            dtype=self.element,
            block=self.tile if self.has_files else None,
            role=self.role,
            attributes={
                key: value
                for key, value in {
                    "container": self.container.value,
                    "weak_type": self.weak_type,
                    "prng_impl": self.prng_impl,
                    "logical_axes": list(self.logical_axes) if self.logical_axes else None,
                    "spec": [list(axes) for axes in self.spec] if self.spec else None,
                    "keys": [[key.kind, key.text] for key in self.keys],
                }.items()
                if value
            },
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what is at its default is left out."""
        default = LeafEntry(path="", keys=(), storage=Storage.VALUE)
        found: dict[str, Any] = {"path": self.path, "storage": self.storage.value}
        for name in self.__slots__:
            value = getattr(self, name)
            if name not in ("path", "keys", "storage") and value != getattr(default, name):
                found[name] = value
        found["keys"] = [[key.kind, key.text] for key in self.keys]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LeafEntry:
        """The reverse of `to_json`."""
        values = dict(data)
        values["keys"] = tuple(Key(kind, text) for kind, text in data["keys"])
        for name, kind in (("storage", Storage), ("container", Container), ("role", Role)):
            if name in values:
                values[name] = kind(values[name])
        for name in ("shape", "tile", "block", "logical_axes"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if values.get("spec") is not None:
            values["spec"] = tuple(tuple(axes) for axes in values["spec"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself.

    Args:
        leaves: Its leaves.
        tree: Nodes of the tree, as JSON.
        digest: Digest of the whole content: equal on whatever mesh, in whatever tiles.
        step: The training step, if it has one.
        mesh: Axis sizes of the mesh that it was saved from.
        plan: The plan of the program that it belongs to, as JSON.
        metadata: What the user added.
        writer: Versions of what wrote it.
        processes: How many processes wrote it.
        created_unix_s: When.
    """

    leaves: tuple[LeafEntry, ...]
    tree: Mapping[str, Any]
    digest: str
    step: int | None = None
    mesh: Mapping[str, int] | None = None
    plan: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    writer: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    created_unix_s: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays in memory."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def by_path(self) -> dict[str, LeafEntry]:
        """The leaves by path."""
        return {leaf.path: leaf for leaf in self.leaves}

    def to_bytes(self) -> bytes:
        """The content of ``manifest.json``."""
        document: dict[str, Any] = {"format": "autoshard", "schema_version": SCHEMA_VERSION}
        for name in self.__slots__:
            document[name] = getattr(self, name)
        document["leaves"] = [leaf.to_json() for leaf in self.leaves]
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> Manifest:
        """The reverse of `to_bytes`.

        Raises:
            CheckpointVersionError: It is of a later version of the format.
        """
        document = json.loads(data)
        version = document.pop("schema_version", None)
        if document.pop("format", None) != "autoshard" or version != SCHEMA_VERSION:
            raise CheckpointVersionError(path, version, SCHEMA_VERSION)
        document["leaves"] = tuple(LeafEntry.from_json(leaf) for leaf in document["leaves"])
        return cls(**document)
