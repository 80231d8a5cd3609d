"""Checkpoints in memory, which count what is read of them."""

import io
import pickle
import zipfile
from types import SimpleNamespace
from typing import Any, ClassVar

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


class Size(tuple):
    """Stands for a `torch.Size`."""


class Marked(np.ndarray):
    """An array that stands for a tensor with Python attributes, as DeepSpeed has them."""


class TorchPickler(pickle._Pickler):
    """Writes the pickles that `torch.save` writes, for arrays and without torch."""

    write: Any  # these two are there, but no part of what is known of its type
    save: Any
    dispatch: ClassVar[dict[type, Any]] = pickle._Pickler.dispatch.copy()
    storages: ClassVar = {
        "float32": "FloatStorage",
        "bfloat16": "BFloat16Storage",
        "int64": "LongStorage",
        "float16": "HalfStorage",
    }

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.arrays = []

    def name(self, module, name):
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def save_array(self, array):
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.save_arguments(array)
        self.write(pickle.REDUCE)

    def save_marked(self, array):
        self.name("torch._tensor", "_rebuild_from_type_v2")
        self.write(pickle.MARK)
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.name("torch", "Tensor")
        self.save_arguments(array)
        self.save({"ds_id": "0_2"})
        self.write(pickle.TUPLE + pickle.REDUCE)

    def save_arguments(self, array):
        strides = tuple(s // array.itemsize for s in array.strides)
        self.write(pickle.MARK + pickle.MARK)
        self.save("storage")
        self.name("torch", self.storages[array.dtype.name])
        for item in (str(len(self.arrays)), "cpu", array.size):
            self.save(item)
        self.write(pickle.TUPLE + pickle.BINPERSID)
        for item in (0, array.shape, strides, False):
            self.save(item)
        self.name("collections", "OrderedDict")
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE)
        self.arrays.append(array)

    def save_size(self, size):
        self.name("torch", "Size")
        self.save(tuple(size))
        self.write(pickle.TUPLE1 + pickle.REDUCE)

    dispatch[np.ndarray] = save_array
    dispatch[Marked] = save_marked
    dispatch[Size] = save_size


def torch_save(path, content):
    """Writes a file as `torch.save` does."""
    pickled = io.BytesIO()
    pickler = TorchPickler(pickled)
    pickler.dump(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickled.getvalue())
        archive.writestr(f"{path.stem}/byteorder", b"little")
        for number, array in enumerate(pickler.arrays):
            # A transposed array lies in memory as what it is the transpose of.
            archive.writestr(f"{path.stem}/data/{number}", array.tobytes("A"))
        archive.writestr(f"{path.stem}/version", b"3\n")


@pytest.fixture
def kit():
    """The helpers above: test modules cannot import each other."""
    return SimpleNamespace(
        MemorySource=MemorySource,
        contents=contents,
        same_bits=same_bits,
        importing=importing,
        torch_save=torch_save,
        Size=Size,
        Marked=Marked,
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
