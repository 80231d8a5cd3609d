"""Pickles of tensors, read without unpickling.

A small machine interprets the opcodes that dicts, lists, numbers, texts and tensors need. It builds
plain containers and descriptions of tensors; it imports nothing and calls nothing. A global that is
not on the list ends the reading, and the error names it.
"""

import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.errors import ForeignFileError, UnsafePickleError

_F8 = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        **{name: np.dtype(name) for name in ("float64", "float32", "float16", "bool")},
        **{
            f"{u}int{bits}": np.dtype(f"{u}int{bits}")
            for u in ("u", "")
            for bits in (8, 16, 32, 64)
        },
        **{name: np.dtype(name) for name in ("complex64", "complex128")},
        "bfloat16": np.dtype(ml_dtypes.bfloat16),
        **_F8,
    }
)
STORAGES: Mapping[str, str] = MappingProxyType(
    {
        **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16"},
        **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16"},
        **{"CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool"},
        **{"BFloat16Storage": "bfloat16", "ComplexFloatStorage": "complex64"},
        **{"ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8"},
    }
)


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle refers to; nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Storage:
    """A stretch of numbers, in a file of its own beside the pickle."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchTensor:
    """A tensor in a storage.

    Args:
        storage: The storage.
        dtype: Type of its elements.
        offset: Of its first element in the storage, in elements.
        shape: Its shape.
        stride: From one element to the next along each dimension, in elements.
    """

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is left out, by the wish of the layout."""

    what: Global


class Size(tuple[int, ...]):
    """A `torch.Size`."""

    __slots__ = ()


_MARK = object()


def read_pickle(data: bytes, path: Path, opaque: Collection[str] = ()) -> Any:
    """The contents of a pickle of tensors.

    Args:
        data: The pickle.
        path: Its file, for messages.
        opaque: Globals, as ``module.Class``, whose objects become `Opaque`.

    Raises:
        UnsafePickleError: It asks for something else.
        ForeignFileError: It is damaged.
    """
    machine = _Machine(path, frozenset(opaque))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.result()
    except ForeignFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        problem = f"has a pickle that cannot be read: {error!r:.200}"
        raise ForeignFileError(path, problem) from error


class _Machine:
    """A stack and a memo, like the machine of `pickle`, without its power."""

    def __init__(self, path: Path, opaque: frozenset[str]) -> None:
        self._path, self._opaque = path, opaque
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """What the pickle describes."""
        (value,) = self._stack
        return value

    def step(self, name: str, argument: Any) -> None:
        """Runs an opcode."""
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _NOTHING:
            raise UnsafePickleError(self._path, f"the opcode {name}")

    def pop(self) -> Any:
        """The top of the stack."""
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def marked(self) -> list[Any]:
        """What lies above the last mark; both go."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self._stack.append(value)

    def memoize(self, key: int | None) -> None:
        """Remembers the top of the stack."""
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def recall(self, key: int) -> None:
        """Puts back what was remembered."""
        self._stack.append(self._memo[key])

    def look_up(self, module: str, name: str) -> None:
        """A global, if it is allowed."""
        found = Global(module, name)
        if str(found) not in _CALLS and not _is_name(found) and str(found) not in self._opaque:
            raise UnsafePickleError(self._path, f"the global {found}")
        self._stack.append(found)

    def stack_global(self) -> None:
        """A global whose names lie on the stack."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global without a name")
        self.look_up(module, name)

    def call(self) -> None:
        """Applies a global to arguments: one of a few that are understood here."""
        arguments, function = self.pop(), self.pop()
        if isinstance(function, Opaque):
            self._stack.append(function)
        elif not isinstance(function, Global):
            raise UnsafePickleError(self._path, f"a call of {type(function).__name__}")
        elif str(function) in self._opaque:
            self._stack.append(Opaque(function))
        elif str(function) not in _CALLS:
            raise UnsafePickleError(self._path, f"a call of {function}")
        else:
            self._stack.append(_CALLS[str(function)](*arguments))

    def build(self) -> None:
        """State of an object: attributes of dicts (torch's ``_metadata``) are left out."""
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, _Namespace) and isinstance(state, dict):
            target.update(state)
        elif not isinstance(target, dict | Opaque):
            raise UnsafePickleError(self._path, f"state for {type(target).__name__}")

    def persistent(self) -> None:
        """A storage, by the tuple that torch puts there."""
        kind, storage, key, _, _ = self.pop()
        if kind != "storage" or not isinstance(storage, Global):
            raise UnsafePickleError(self._path, f"the persistent object {kind!r}")
        dtype = DTYPES[STORAGES[storage.name]]
        self._stack.append(Storage(str(key), dtype))

    def set_items(self, items: list[Any]) -> None:
        """Keys and values into a dict."""
        target = self._stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            raise ValueError("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def append(self, items: list[Any]) -> None:
        """Values onto a list."""
        target = self._stack[-1]
        if isinstance(target, set):
            target.update(items)
        elif isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise ValueError("items for something that is no list")


class _Namespace(dict[str, Any]):
    """An `argparse.Namespace`, in which Megatron keeps its options, as a dict."""


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any, dtype: Any = None
) -> TorchTensor:
    del rest
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return TorchTensor(
        storage=storage,
        dtype=dtype or storage.dtype,
        offset=int(offset),
        shape=tuple(int(n) for n in shape),
        stride=tuple(int(n) for n in stride),
    )


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TorchTensor:
    return _tensor(storage, offset, shape, stride, dtype=DTYPES[rest[2].name])


def _with_attributes(function: Any, kind: Any, arguments: Any, attributes: Any) -> TorchTensor:
    """A tensor that Python attributes were set on, as DeepSpeed does; they are left out."""
    del attributes
    rebuilds = isinstance(function, Global) and str(function).startswith("torch._utils._rebuild_")
    if not rebuilds or not isinstance(kind, Global) or str(kind) not in _TENSOR_KINDS:
        raise TypeError(f"{function} for {kind}, which is no tensor of torch")
    return _CALLS[str(function)](*arguments)


_TENSOR_KINDS = frozenset({"torch.Tensor", "torch.nn.parameter.Parameter"})
_CALLS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "collections.OrderedDict": lambda items=(): dict(items),
        "collections.defaultdict": lambda *_: {},
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
        "torch._tensor._rebuild_from_type_v2": _with_attributes,
        "torch.Size": lambda items=(): Size(items),
        "torch.device": lambda *parts: ":".join(map(str, parts)),
        "argparse.Namespace": lambda: _Namespace(),
        "builtins.set": lambda items=(): set(items),
        "builtins.complex": complex,
    }
)


def _is_name(found: Global) -> bool:
    """Names that are data: storages, types of elements and tensors, and those of default dicts."""
    if str(found) in _TENSOR_KINDS:
        return True
    if found.module in ("torch", "torch.storage") and found.name in (*STORAGES, "TypedStorage"):
        return True
    return (found.module == "torch" and found.name in DTYPES) or (
        found.module == "builtins" and found.name in ("int", "float", "dict", "list", "str")
    )


_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING"),
        *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_DICT": dict,
        "EMPTY_LIST": list,
        "EMPTY_TUPLE": tuple,
        "EMPTY_SET": set,
        "MARK": lambda: _MARK,
    }
)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = MappingProxyType(
    {
        "TUPLE": lambda m, _: m.push(tuple(m.marked())),
        "TUPLE1": lambda m, _: m.push((m.pop(),)),
        "TUPLE2": lambda m, _: m.push((m.pop(), m.pop())[::-1]),
        "TUPLE3": lambda m, _: m.push((m.pop(), m.pop(), m.pop())[::-1]),
        "LIST": lambda m, _: m.push(m.marked()),
        "DICT": lambda m, _: m.push(_pairs(m.marked())),
        "APPEND": lambda m, _: m.append([m.pop()]),
        "APPENDS": lambda m, _: m.append(m.marked()),
        "ADDITEMS": lambda m, _: m.append(m.marked()),
        "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
        "SETITEMS": lambda m, _: m.set_items(m.marked()),
        "POP": lambda m, _: m.pop() and None,
        "POP_MARK": lambda m, _: m.marked() and None,
        "PUT": lambda m, key: m.memoize(key),
        "BINPUT": lambda m, key: m.memoize(key),
        "LONG_BINPUT": lambda m, key: m.memoize(key),
        "MEMOIZE": lambda m, _: m.memoize(None),
        "GET": lambda m, key: m.recall(key),
        "BINGET": lambda m, key: m.recall(key),
        "LONG_BINGET": lambda m, key: m.recall(key),
        "GLOBAL": lambda m, name: m.look_up(*name.split(" ", 1)),
        "STACK_GLOBAL": lambda m, _: m.stack_global(),
        "REDUCE": lambda m, _: m.call(),
        "NEWOBJ": lambda m, _: m.call(),
        "BUILD": lambda m, _: m.build(),
        "BINPERSID": lambda m, _: m.persistent(),
    }
)
