"""Sources made of other sources: a part of a tree, a tree put elsewhere, other types."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, TensorSource
from autoshard.checkpoint.layouts._parameters import dtype_of
from autoshard.checkpoint.layouts.ops import Cast
from autoshard.checkpoint.layouts.ops._values import is_float, widens
from autoshard.errors import LossyLayoutError, UsageError


@dataclass(frozen=True, slots=True)
class Moved:
    """The tensors of a source under other names.

    Args:
        source: The source.
        names: New name → its own.
    """

    source: TensorSource
    names: Mapping[str, str]

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All of them."""
        infos = self.source.tensors()
        return {
            name: replace(infos[own], attributes=_without_keys(infos[own]))
            for name, own in self.names.items()
            if own in infos
        }

    def values(self) -> Mapping[str, Any]:
        """Leaves that are no tensors."""
        values = self.source.values()
        return {name: values[own] for name, own in self.names.items() if own in values}

    def metadata(self) -> Mapping[str, Any]:
        """What the source says of itself."""
        return self.source.metadata()

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece."""
        return self.source.read(self.names[name], index)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()


def _without_keys(info: TensorInfo) -> dict[str, Any]:
    """What a format says of a tensor, but for its place in the tree."""
    return {key: value for key, value in info.attributes.items() if key != "keys"}


def put_under(source: TensorSource, folder: str) -> TensorSource:
    """The tree of a source as a folder of a larger one."""
    prefix = _prefix(folder)
    own = [*source.tensors(), *source.values()]
    return Moved(source, {prefix + name: name for name in own}) if prefix else source


def take_from(source: TensorSource, folder: str) -> tuple[TensorSource, list[str]]:
    """A folder of a source's tree as a tree, and what lies outside of it.

    Raises:
        UsageError: There is no such folder.
    """
    prefix = _prefix(folder)
    if not prefix:
        return source, []
    names = [*source.tensors(), *source.values()]
    inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    if not inside:
        tops = sorted({name.split("/")[0] for name in names})
        raise UsageError(f"there is no {folder} in the tree", f"--under {' | '.join(tops)}")
    return Moved(source, inside), [n for n in source.tensors() if not n.startswith(prefix)]


@dataclass(frozen=True, slots=True)
class Merged:
    """The tensors of several sources that share no name.

    Args:
        sources: The sources.
        owners: Name → the source it is of.
    """

    sources: tuple[TensorSource, ...]
    owners: Mapping[str, TensorSource]

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All of them."""
        return {name: info for s in self.sources for name, info in s.tensors().items()}

    def values(self) -> Mapping[str, Any]:
        """Leaves that are no tensors."""
        return {name: value for s in self.sources for name, value in s.values().items()}

    def metadata(self) -> Mapping[str, Any]:
        """What the first says of itself."""
        return self.sources[0].metadata()

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece."""
        return self.owners[name].read(name, index)

    def close(self) -> None:
        """Closes all."""
        for source in self.sources:
            source.close()


def merged(sources: list[TensorSource]) -> Merged:
    """Sources as one."""
    return Merged(tuple(sources), {name: s for s in sources for name in s.tensors()})


def _prefix(folder: str) -> str:
    return f"{folder.strip('/')}/" if folder.strip("/") else ""


@dataclass(frozen=True, slots=True)
class CastSource:
    """A source with some of its tensors in other types.

    Args:
        source: The source.
        casts: Name → the cast.
    """

    source: TensorSource
    casts: Mapping[str, Cast]

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors."""
        return {
            name: replace(info, dtype=self.casts[name].to) if name in self.casts else info
            for name, info in self.source.tensors().items()
        }

    def values(self) -> Mapping[str, Any]:
        """Leaves that are no tensors."""
        return self.source.values()

    def metadata(self) -> Mapping[str, Any]:
        """What the source says of itself."""
        return self.source.metadata()

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece."""
        piece = self.source.read(name, index)
        if name in self.casts:
            with np.errstate(over="ignore", invalid="ignore"):
                return piece.astype(self.casts[name].to)
        return piece

    def close(self) -> None:
        """Closes the source."""
        self.source.close()


def cast(
    source: TensorSource, casts: Mapping[str, str], *, allow_lossy: bool
) -> tuple[TensorSource, list[str]]:
    """Casts the tensors whose paths match, and says which of them lose something.

    Args:
        source: The source.
        casts: Pattern of paths, as in a shell → type.
        allow_lossy: Whether fractions may be cut off.

    Raises:
        UsageError: A pattern matches nothing, or a type is none.
        LossyLayoutError: Floats would become integers.
    """
    found: dict[str, Cast] = {}
    losses: list[str] = []
    infos = source.tensors()
    for pattern, kind in casts.items():
        try:
            to = dtype_of(kind)
        except TypeError as error:
            raise UsageError(f"{kind!r} is no type", f"--cast '{pattern}=bfloat16'") from error
        matching = fnmatch.filter(infos, pattern)
        if not matching:
            raise UsageError(f"no tensor matches {pattern!r}", "--cast '*=bfloat16'")
        for name in matching:
            dtype = infos[name].dtype
            if dtype == to:
                continue
            found[name] = Cast(source=dtype, to=to)
            if is_float(dtype) and not is_float(to) and not allow_lossy:
                raise LossyLayoutError("cast", [f"{name}: fractions, {dtype.name} to {to.name}"])
            if not widens(dtype, to):
                losses.append(f"{name}: precision, from {dtype.name} to {to.name}")
    return (CastSource(source, found) if found else source), losses
