"""What a checkpoint is to be loaded into: one decision per leaf, and every disagreement at once."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autoshard._compat import key_implementation
from autoshard.checkpoint._manifest import Container, LeafEntry, Manifest
from autoshard.checkpoint._tree import read_tree
from autoshard.checkpoint._values import decode_value, is_value
from autoshard.checkpoint._zarr import dtype_of
from autoshard.errors import CheckpointError, CheckpointMismatchError

Placement = Callable[[str, tuple[int, ...]], Any]
"""From a leaf's path and shape to the sharding that it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one leaf becomes.

    Args:
        entry: The leaf as it was saved.
        dtype: Element type of the result; that of the entry unless a cast was asked for.
        sharding: Of the resulting jax array; None for arrays on the host and values.
        weak_type: Whether the result is weakly typed.
        finish: From the array or value that was read to the leaf of the result.
    """

    entry: LeafEntry
    dtype: np.dtype[Any] | None = None
    sharding: Any = None
    weak_type: bool = False
    finish: Callable[[Any], Any] = lambda value: value


class Resolver:
    """Compares leaves and collects what disagrees.

    Args:
        path: The checkpoint, for errors.
        manifest: What it holds.
        placement: Shardings of leaves that do not bring their own.
        cast: Glob of paths → dtype that their leaves are converted to.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        placement: Placement | None,
        cast: Mapping[str, str],
    ) -> None:
        self._path = path
        self._entries = manifest.by_path()
        self._placement = placement
        self._cast = {glob: _dtype(name) for glob, name in cast.items()}
        self._differing: dict[str, str] = {}

    def everything(self) -> dict[str, Wanted]:
        """All leaves, as they were saved: on the host, or placed where there is a placement."""
        found = {path: self._as_saved(entry) for path, entry in self._entries.items()}
        self._raise([], [])
        return found

    def into(self, target: Any, *, partial: bool) -> tuple[list[Wanted], Any]:
        """The leaves of a target tree, and its tree definition.

        Raises:
            CheckpointMismatchError: Leaves are missing, extra, or of another shape or dtype.
        """
        leaves, _ = read_tree(target)
        missing = [leaf.path for leaf in leaves if leaf.path not in self._entries]
        paths = {leaf.path for leaf in leaves}
        extra = [] if partial else [path for path in self._entries if path not in paths]
        wanted: list[Wanted] = []
        for leaf in leaves:
            entry = self._entries.get(leaf.path)
            if entry is not None:
                found = self._fit(entry, leaf.value)
                if isinstance(found, str):
                    self._differing[leaf.path] = found
                else:
                    wanted.append(found)
        self._raise(missing, extra)
        return wanted, jax.tree.structure(target)

    def _raise(self, missing: list[str], extra: list[str]) -> None:
        if missing or extra or self._differing:
            raise CheckpointMismatchError(self._path, missing, extra, self._differing)

    def _as_saved(self, entry: LeafEntry) -> Wanted:
        if not entry.is_array:
            return Wanted(entry=entry)
        dtype = self._cast_of(entry) or entry.element
        problem = self._lossy(entry, dtype)
        if problem:
            self._differing[entry.path] = problem
        shape = _outer_shape(entry)
        on_devices = entry.container in (Container.JAX, Container.KEY)
        sharding = None
        if on_devices and self._placement is not None:
            sharding = self._placement(entry.path, shape)
        elif entry.container is Container.KEY:
            sharding = _default_sharding()
        weak = entry.weak_type and dtype == entry.element and sharding is not None
        return Wanted(entry=entry, dtype=dtype, sharding=sharding, weak_type=weak)

    def _fit(self, entry: LeafEntry, target: Any) -> Wanted | str:
        """How an entry becomes a leaf of the target, or why it cannot."""
        if is_value(target):
            return self._fit_value(entry, target)
        if not hasattr(target, "shape") or not hasattr(target, "dtype"):
            return f"the target is a {type(target).__name__}, which is no array"
        shape, dtype = tuple(target.shape), target.dtype
        if not entry.is_array:
            return self._value_into_array(entry, target)
        is_key = jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
        if is_key != (entry.container is Container.KEY):
            kinds = (f"{entry.dtype} numbers", "PRNG keys") if is_key else ("PRNG keys", str(dtype))
            return f"dtype: saved {kinds[0]}, wanted {kinds[1]}"
        if shape != _outer_shape(entry):
            return f"shape: saved {list(_outer_shape(entry))}, wanted {list(shape)}"
        if is_key:
            if key_implementation(dtype) != entry.prng_impl:
                return f"dtype: saved {entry.prng_impl} keys, wanted {key_implementation(dtype)}"
            dtype = entry.element
        elif np.dtype(dtype).newbyteorder("=") != entry.element:
            asked = self._cast_of(entry)
            if asked is None or asked != dtype:
                return f"dtype: saved {entry.dtype}, wanted {np.dtype(dtype).name}"
            problem = self._lossy(entry, asked)
            if problem:
                return problem
        if isinstance(target, np.ndarray):
            return Wanted(entry=entry, dtype=np.dtype(dtype).newbyteorder("="))
        sharding = self._sharding(entry.path, target)
        problem = _misfit(sharding, shape)
        if problem:
            return problem
        return Wanted(
            entry=entry,
            dtype=np.dtype(dtype),
            sharding=sharding,
            weak_type=bool(getattr(target, "weak_type", False)),
        )

    def _sharding(self, path: str, target: Any) -> Any:
        own = getattr(target, "sharding", None)
        if own is not None:
            return own
        if self._placement is not None:
            return self._placement(path, tuple(target.shape))
        return _default_sharding()

    def _fit_value(self, entry: LeafEntry, target: Any) -> Wanted | str:
        if entry.value is not None:
            saved = decode_value(dict(entry.value))
            if type(saved) is not type(target):
                return f"dtype: saved {type(saved).__name__}, wanted {type(target).__name__}"
            return Wanted(entry=entry)
        kinds = {bool: "b", int: "iu", float: "f", complex: "c"}.get(type(target), "")
        numbers = entry.element.kind if entry.element.isbuiltin else "f"
        if entry.shape or entry.container is Container.KEY or numbers not in kinds:
            return f"dtype: saved {entry.dtype}{list(entry.shape)}, wanted {type(target).__name__}"
        return Wanted(entry=entry, dtype=entry.element, finish=lambda array: array.item())

    def _value_into_array(self, entry: LeafEntry, target: Any) -> Wanted | str:
        """A number that was none of jax's when it was saved, such as the step of a new state."""
        value = decode_value(dict(entry.value or {}))
        text = f"saved {value!r}, wanted {target.dtype}{list(target.shape)}"
        if isinstance(value, str | bytes) or value is None:
            return f"dtype: {text}"
        if target.shape != () or jax.numpy.issubdtype(target.dtype, jax.dtypes.prng_key):
            return f"shape: {text}"
        try:
            array = np.asarray(value).astype(target.dtype)
        except (OverflowError, ValueError, TypeError):
            return f"dtype: {text}"
        if array.item() != value or (isinstance(value, float) and array.dtype.kind in "iub"):
            return f"dtype: {text}"
        sharding = None if isinstance(target, np.ndarray) else self._sharding(entry.path, target)
        return Wanted(
            entry=entry,
            dtype=array.dtype,
            sharding=sharding,
            weak_type=bool(getattr(target, "weak_type", False)),
            finish=lambda _: array,
        )

    def _cast_of(self, entry: LeafEntry) -> np.dtype[Any] | None:
        found = [d for g, d in self._cast.items() if fnmatch.fnmatchcase(entry.path, g)]
        return found[0] if found and entry.is_array else None

    def _lossy(self, entry: LeafEntry, dtype: np.dtype[Any]) -> str | None:
        if dtype == entry.element:
            return None
        exact = jax.numpy.issubdtype(dtype, np.integer) or dtype.kind == "b"
        inexact = jax.numpy.issubdtype(entry.element, np.inexact)
        drops = entry.element.kind == "c" and dtype.kind != "c"
        if entry.container is Container.KEY or drops or (exact and inexact):
            return f"dtype: a cast from {entry.dtype} to {dtype.name} would lose what it is"
        return None


def _misfit(sharding: Any, shape: tuple[int, ...]) -> str | None:
    """Why a sharding is none of an array of this shape."""
    try:
        sharding.addressable_devices_indices_map(shape)
    except ValueError:
        spec, mesh = getattr(sharding, "spec", sharding), getattr(sharding, "mesh", None)
        on = f" on {dict(mesh.shape)}" if mesh is not None else ""
        return f"sharding: {spec}{on} does not fit its shape {list(shape)}"
    return None


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return dtype_of(name)
    except TypeError as error:
        raise CheckpointError(f"cast to {name!r}", "is no dtype", 'cast={"*": "bfloat16"}') from (
            error
        )


def _outer_shape(entry: LeafEntry) -> tuple[int, ...]:
    """The shape that the user sees: that of keys lacks the dimension of their data."""
    return entry.shape[:-1] if entry.container is Container.KEY else entry.shape


def _default_sharding() -> Any:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
