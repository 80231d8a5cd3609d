"""The files that make a checkpoint one of orbax's: stock orbax opens it without this package.

Names, key types and value types are those that orbax 0.12 writes for `use_ocdbt=False`,
`use_zarr3=True`. Arrays are declared as numpy arrays: orbax then loads them onto whatever devices
the reader asks for, and without a target onto the host, where a saved jax sharding would tie it to
the devices that wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoshard.checkpoint._manifest import STATE, LeafEntry, Storage
from autoshard.checkpoint._values import decode_value, orbax_scalar
from autoshard.errors import CheckpointKeyError

_SEQUENCE, _DICT = 1, 2
_HANDLER = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
_EMPTY_NODES = {"dict": "Dict", "list": "List", "tuple": "Tuple", "mapping": "Dict"}
_RESERVED = re.compile(
    r"_METADATA|_sharding|_strings\.json|array_metadatas|manifest\.ocdbt|ocdbt\.process_.*"
)
_MOST_NAME_BYTES = 255


class Names:
    """The names that leaves are stored under: no two share a place on disk.

    Orbax joins keys by dots, so ``{"a.b": x, "a": {"b": y}}`` would put two leaves into one place.
    """

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}  # name -> path of its leaf
        self._folders: dict[str, str] = {}  # what is above a name -> path of a leaf inside

    def add(self, leaf: LeafEntry) -> None:
        """Take one more.

        Raises:
            CheckpointKeyError: Two leaves share a name, or a name is no path of a file.
        """
        name = leaf.name
        if not leaf.keys:
            raise CheckpointKeyError([name], "the tree is a single leaf without a name")
        if name in self._paths:
            raise CheckpointKeyError(
                [self._paths[name], leaf.path], f"both would be stored under the name {name!r}"
            )
        problem = _no_file(name, leaf.path)
        if problem:
            shown = leaf.path if is_unicode(leaf.path) else ascii(leaf.path)
            raise CheckpointKeyError([shown], problem)
        self._paths[name] = leaf.path
        parts = name.split("/")
        folders = ["/".join(parts[:length]) for length in range(1, len(parts))]
        outer = next((self._paths[folder] for folder in folders if folder in self._paths), None)
        for one, other in ((outer, leaf.path), (leaf.path, self._folders.get(name))):
            if one is not None and other is not None:
                raise CheckpointKeyError([one, other], "one would be stored inside the other")
        self._folders.update(dict.fromkeys(folders, leaf.path))


def _no_file(name: str, path: str) -> str | None:
    """Why a name is no path of a file in every reader; None where it is one."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        return f"{name!r} is no name that a file could have"
    if "\\" in name:
        return "orbax takes a backslash in a key for a slash"
    if not is_unicode(path):
        return "is no valid Unicode"
    if any(len(part.encode()) > _MOST_NAME_BYTES for part in parts):
        return "its name is longer than 255 bytes"
    if _RESERVED.fullmatch(parts[0]):
        return f"{parts[0]!r} is a name of orbax's own files"
    return None


def check_names(leaves: Iterable[LeafEntry]) -> None:
    """Refuse trees whose leaves would share a place on disk, before anything is written.

    Raises:
        CheckpointKeyError: Two leaves share a name, or a name is no path of a file.
    """
    names = Names()
    for leaf in leaves:
        names.add(leaf)


def is_unicode(text: str) -> bool:
    """Whether files can hold a text: a lone half of a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def metadata_files(
    leaves: Sequence[LeafEntry], tree: Mapping[str, Any], *, time_ns: int, custom: Any
) -> dict[str, bytes]:
    """Orbax's own files, by path below the checkpoint."""
    files: dict[str, Any] = {
        "_CHECKPOINT_METADATA": {
            "item_handlers": {STATE: _HANDLER},
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": time_ns,
            "commit_timestamp_nsecs": time_ns,
            "custom_metadata": custom,
        },
        f"{STATE}/_METADATA": {
            "tree_metadata": dict(_tree_metadata(leaves, tree)),
            "use_ocdbt": False,
            "use_zarr3": True,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        },
        f"{STATE}/array_metadatas/process_0": {
            "array_metadatas": [
                {"array_metadata": _array_metadata(leaf)}
                for leaf in leaves
                if leaf.storage is Storage.ARRAY
            ]
        },
    }
    texts = {
        leaf.name: leaf.value["value"]
        for leaf in leaves
        if leaf.value is not None and value_type(leaf) == "string"
    }
    if texts:
        files[f"{STATE}/_strings.json"] = texts
    found = {name: json.dumps(content).encode() for name, content in files.items()}
    return {"orbax.checkpoint": b"", **found}


def _array_metadata(leaf: LeafEntry) -> dict[str, Any]:
    return {
        "param_name": leaf.name,
        "write_shape": list(leaf.shape),
        "chunk_shape": list(leaf.tile),
        "ext_metadata": {"random_key_impl": leaf.prng_impl} if leaf.prng_impl else None,
    }


def _tree_metadata(
    leaves: Sequence[LeafEntry], tree: Mapping[str, Any]
) -> Iterable[tuple[str, Any]]:
    kinds = {leaf.path: value_type(leaf) for leaf in leaves}

    def walk(node: Mapping[str, Any], way: tuple[tuple[str, str], ...]) -> Iterable[Any]:
        if "leaf" in node:
            yield way, kinds[node["leaf"]]
        elif node.get("children"):
            for key, child in zip(node["keys"], node["children"], strict=True):
                yield from walk(child, (*way, tuple(key)))
        else:
            yield way, _EMPTY_NODES.get(node["type"], "None")

    for way, kind in walk(tree, ()):
        keys = [{"key": text, "key_type": _SEQUENCE if k == "s" else _DICT} for k, text in way]
        skip = kind in ("None", *_EMPTY_NODES.values())
        value = {"value_type": kind, "skip_deserialize": skip}
        yield str(tuple(text for _, text in way)), {"key_metadata": keys, "value_metadata": value}


def value_type(leaf: LeafEntry) -> str:
    """What orbax takes a leaf for; ``None`` for what only the manifest holds."""
    if leaf.storage is Storage.ARRAY:
        return "np.ndarray"
    if leaf.value is None:
        return "None"
    value = decode_value(dict(leaf.value))
    if isinstance(value, str):
        return "string" if is_unicode(value) else "None"
    return "None" if orbax_scalar(value) is None else "scalar"
