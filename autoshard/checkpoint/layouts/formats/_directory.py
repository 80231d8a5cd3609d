"""Many files as one checkpoint: tensors are named by their file's path and their name in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, TensorSource


class DirectorySource:
    """Files below a directory.

    Args:
        root: The directory.
        files: How a file is called in the names of tensors → its path below the directory.
        open_file: Opens one.
    """

    def __init__(
        self, root: Path, files: Mapping[str, str], open_file: Callable[[Path], TensorSource]
    ) -> None:
        self._sources = {name: open_file(root / path) for name, path in files.items()}
        self._places = {
            f"{file}/{name}": (file, name)
            for file, source in self._sources.items()
            for name in source.tensors()
        }

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, file by file."""
        return {
            f"{file}/{name}": info
            for file, source in self._sources.items()
            for name, info in source.tensors().items()
        }

    def values(self) -> Mapping[str, Any]:
        """All leaves that are no tensors."""
        return {
            f"{file}/{name}": value
            for file, source in self._sources.items()
            for name, value in source.values().items()
        }

    def metadata(self) -> Mapping[str, Any]:
        """What the first file that says something says."""
        return next((s.metadata() for s in self._sources.values() if s.metadata()), {})

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece of a tensor."""
        file, inner = self._places[name]
        return self._sources[file].read(inner, index)

    def close(self) -> None:
        """Closes all files."""
        for source in self._sources.values():
            source.close()
