"""File formats by name: what tells them, how they are opened and made."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autoshard.checkpoint._tensors import TensorSource
from autoshard.checkpoint.layouts import formats
from autoshard.checkpoint.layouts._names import pattern
from autoshard.checkpoint.layouts._spec import Spec
from autoshard.errors import ForeignFileError, UnknownFormatError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How files are read.

    Args:
        opaque: Globals of pickles whose objects are left out.
        verify: Whether checksums that a format keeps are compared.
    """

    opaque: tuple[str, ...] = ()
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """How files are written.

    Args:
        journal: Whether a killed conversion goes on later.
        block_bytes: Size of the pieces in which files are written.
        max_shard_bytes: Most bytes in one file, where there are several.
        files: Patterns of file names, for formats that write a file for each rank.
    """

    journal: bool = False
    block_bytes: int = 8 << 20
    max_shard_bytes: int = 5 * 10**9
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A file format.

    Args:
        name: Its name.
        told_by: What shows that a path is of this format, in words.
        tells: Whether a path is.
        open: Opens a path.
        create: Begins a new one; None where this package only reads it.
    """

    name: str
    told_by: str
    tells: Callable[[Path], bool]
    open: Callable[[Path, OpenOptions], TensorSource]
    create: Callable[[Path, SinkOptions], Any] | None


def _native_source(path: Path, options: OpenOptions) -> TensorSource:
    from autoshard.checkpoint._source import open_source

    return open_source(path)


def _native_sink(path: Path, options: SinkOptions) -> Any:
    from autoshard.checkpoint._sink import create_sink

    return create_sink(path, journal=options.journal)


def _is_safetensors(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.safetensors"))
    return path.name.endswith((".safetensors", ".safetensors.index.json"))


def _safetensors_sink(path: Path, options: SinkOptions) -> Any:
    return formats.SafetensorsSink(
        path,
        journal=options.journal,
        block_bytes=options.block_bytes,
        max_shard_bytes=options.max_shard_bytes,
        files=options.files,
    )


def _torch_sink(path: Path, options: SinkOptions) -> Any:
    return formats.TorchSink(
        path, journal=options.journal, block_bytes=options.block_bytes, files=options.files
    )


def _region_sink(kind: Callable[..., Any]) -> Callable[[Path, SinkOptions], Any]:
    return lambda path, options: kind(
        path, journal=options.journal, block_bytes=options.block_bytes
    )


def _is_orbax(path: Path) -> bool:
    from autoshard.checkpoint.layouts.formats._orbax import tree_folder

    return tree_folder(path) is not None


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "native": Format(
            name="native",
            told_by="autoshard/manifest.json in the directory",
            tells=lambda path: (path / "autoshard" / "manifest.json").is_file(),
            open=_native_source,
            create=_native_sink,
        ),
        "orbax": Format(
            name="orbax",
            told_by="_METADATA in the directory, or in its state, default, params or items",
            tells=_is_orbax,
            open=lambda path, options: formats.OrbaxSource(path),
            create=None,
        ),
        "safetensors": Format(
            name="safetensors",
            told_by="a .safetensors file",
            tells=_is_safetensors,
            open=lambda path, options: formats.open_safetensors(path),
            create=_safetensors_sink,
        ),
        "torch": Format(
            name="torch",
            told_by="a .pt, .pth or .bin file",
            tells=lambda path: path.is_file() and path.suffix in (".pt", ".pth", ".bin", ".ckpt"),
            open=lambda path, options: formats.open_torch(
                path, opaque=options.opaque, verify=options.verify
            ),
            create=_torch_sink,
        ),
        "npz": Format(
            name="npz",
            told_by="a .npz file",
            tells=lambda path: path.is_file() and path.suffix == ".npz",
            open=lambda path, options: formats.open_npz(path, verify=options.verify),
            create=_region_sink(formats.NpzSink),
        ),
        "msgpack": Format(
            name="msgpack",
            told_by="a .msgpack or .flax file",
            tells=lambda path: path.is_file() and path.suffix in (".msgpack", ".flax"),
            open=lambda path, options: formats.open_msgpack(path),
            create=_region_sink(formats.MsgpackSink),
        ),
    }
)


def detect(path: Path) -> Format:
    """The format of a path.

    Raises:
        UnknownFormatError: None tells itself, or the path is not there.
    """
    for found in FORMATS.values():
        if path.exists() and found.tells(path):
            return found
    there = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    if path.is_file():
        there = [f"a file of {path.stat().st_size} bytes"]
    looked_for = [f"{f.name} ({f.told_by})" for f in FORMATS.values()]
    raise UnknownFormatError(path, looked_for, there)


def by_name(name: str) -> Format:
    """A format by its name.

    Raises:
        UsageError: There is none.
    """
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}", f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def named_alone(spec: Spec, names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names of tensors for files that leave out an axis of one rank, as `Spec.alone` says.

    Args:
        spec: The layout.
        names: All names of tensors, each beginning with its file.

    Returns:
        New name → its own, and the patterns of files that go with them.
    """
    names, files = list(names), tuple(spec.files.values())
    for axis, text in spec.alone.items():
        whole = pattern(f"{files[0]}/{{_name:*}}")
        found = {name: keys for name in names if (keys := whole.match(name)) is not None}
        if len(found) == len(names) and {keys[axis] for keys in found.values()} == {0}:
            short = pattern(f"{text}/{{_name:*}}")
            return {short.write(keys): name for name, keys in found.items()}, (text,)
    return {name: name for name in names}, files


def open_files(path: Path, spec: Spec, options: OpenOptions) -> TensorSource:
    """Opens the files of a layout that spreads tensors over many.

    Args:
        path: The directory.
        spec: The layout; its `files` say which.
        options: How to read them.

    Raises:
        ForeignFileError: None of them is there.
    """
    patterns = [pattern(re.sub(r"\$\{\w+\}", "{_:*}", text)) for text in spec.files.values()]
    present = sorted(
        Path(folder, name).relative_to(path).as_posix()
        for folder, _, names in os.walk(path)
        for name in names
    )
    chosen = {file: file for file in present if any(p.match(file) for p in patterns)}
    for axis, text in {} if chosen else spec.alone.items():
        short = pattern(text)
        found = {file: keys for file in present if (keys := short.match(file)) is not None}
        chosen |= {patterns[0].write({**keys, axis: 0}): file for file, keys in found.items()}
    if not chosen:
        wanted = ", ".join(spec.files.values())
        raise ForeignFileError(
            path,
            f"has no files like {wanted}; there are {', '.join(present[:8]) or 'none'}",
            "name the directory that holds the files of all ranks",
        )
    inner = by_name(spec.format)
    return formats.DirectorySource(path, chosen, lambda file: inner.open(file, options))
