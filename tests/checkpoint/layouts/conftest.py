"""Checkpoints in memory, which count what is read of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from autoshard.checkpoint import TensorInfo
from autoshard.checkpoint.layouts import Known, apply, parse


class MemorySource:
    """Arrays by name, as a `TensorSource`."""

    def __init__(self, arrays, metadata=None):
        self.arrays = dict(arrays)
        self.elements = 0
        self._metadata = metadata or {}

    def tensors(self):
        return {k: TensorInfo(shape=v.shape, dtype=v.dtype) for k, v in self.arrays.items()}

    def values(self):
        return {}

    def metadata(self):
        return self._metadata

    def read(self, name, index):
        array = self.arrays[name]
        assert len(index) == array.ndim
        for part, size in zip(index, array.shape, strict=True):
            assert 0 <= part.start <= part.stop <= size
            assert part.step is None
        piece = array[index]
        self.elements += piece.size
        return piece.copy()

    def close(self):
        pass


def contents(source):
    """Everything that a source holds."""
    return {
        name: source.read(name, tuple(slice(0, n) for n in info.shape))
        for name, info in source.tensors().items()
    }


def same_bits(left, right):
    """Whether two dicts of arrays are equal to the bit, shapes and types included."""
    assert sorted(left) == sorted(right)
    for name, array in left.items():
        other = right[name]
        assert (array.shape, array.dtype) == (other.shape, other.dtype), name
        bits = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (array, other)]
        np.testing.assert_array_equal(*bits, err_msg=name)
    return True


def importing(text, arrays, given=None, config=None):
    """A layout applied to foreign arrays: the layout and the view."""
    source = MemorySource(arrays)
    known = Known(side="foreign", infos=source.tensors(), given=given or {}, config=config or {})
    layout = parse(text).layout(known)
    return layout, apply(layout, source)


@pytest.fixture
def kit():
    """The helpers above: test modules cannot import each other."""
    return SimpleNamespace(
        MemorySource=MemorySource, contents=contents, same_bits=same_bits, importing=importing
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
