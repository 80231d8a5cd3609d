"""One text for equal params of primitives, in every process.

Memory addresses, source lines, names of parameters and devices are left out: none of them says
what an op computes or which of its dimensions belong together.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

_UNSTABLE = re.compile(r"(?: at)? ?0x[0-9a-f]+|[^\s(]+\.py:\d+")
_IGNORED = frozenset({"debug_info", "name", "source_info"})


def params_text(params: Mapping[str, Any], *, plain_only: bool) -> str:
    """The params of an op as one stable text.

    Args:
        params: The params.
        plain_only: Leave out all but numbers, strings, enums and functions: for an op whose bodies
            are part of the program, where trees and jaxprs would say things twice, names included.

    Returns:
        The text.
    """
    parts: list[str] = []
    for name in sorted(params):
        value = params[name]
        if name in _IGNORED or (plain_only and not _is_plain(value)):
            continue
        parts.append(f"{name}={stable_text(value)}")
    return ",".join(parts)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | enum.Enum)


def stable_text(value: Any) -> str:
    """Any param as text that is the same in another process.

    Args:
        value: What JAX keeps in a param.

    Returns:
        The text.
    """
    for kind, text in _TEXTS:
        if isinstance(value, kind):
            return text(value)
    if hasattr(value, "_fields"):  # a named tuple
        return _fields(value, value._fields)
    if isinstance(value, tuple | list):
        return "(" + ",".join(map(stable_text, value)) + ")"
    if isinstance(value, Mapping):
        items = sorted((stable_text(k), stable_text(v)) for k, v in value.items())
        return "{" + ",".join(f"{k}:{v}" for k, v in items) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ",".join(sorted(map(stable_text, value))) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value, [f.name for f in dataclasses.fields(value)])
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return f"{type(value).__qualname__} {_UNSTABLE.sub('', repr(value))}"


def _fields(value: Any, names: Any) -> str:
    inner = ",".join(
        f"{name}={stable_text(getattr(value, name))}" for name in names if name not in _IGNORED
    )
    return f"{type(value).__qualname__}({inner})"


def _axes(mesh: Any) -> str:
    """A mesh by its axes: which devices stand behind it is another matter."""
    return ",".join(f"{name}={mesh.shape[name]}" for name in mesh.axis_names)


def _jaxpr(value: Any) -> str:
    consts = "".join(map(stable_text, getattr(value, "consts", ())))
    return _UNSTABLE.sub("", str(value)) + consts


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    found = np.asarray(value)
    return f"{found.dtype}{found.shape}{hashlib.sha256(found.tobytes()).hexdigest()}"


_TEXTS: tuple[tuple[Any, Any], ...] = (
    ((type(None), bool, int, float, complex, str, bytes), repr),
    (enum.Enum, lambda v: f"{type(v).__qualname__}.{v.name}"),
    (np.dtype, str),
    (type, lambda v: v.__qualname__),
    (
        jax.sharding.NamedSharding,
        lambda v: f"NamedSharding({_axes(v.mesh)};{v.spec};{v.memory_kind})",
    ),
    ((jax.sharding.Mesh, jax.sharding.AbstractMesh), lambda v: f"Mesh({_axes(v)})"),
    (jax.sharding.PartitionSpec, str),
    ((Jaxpr, ClosedJaxpr), _jaxpr),
    ((np.ndarray, np.generic, jax.Array), _array),
    (functools.partial, lambda v: stable_text((v.func, v.args, v.keywords))),
)
"""How to write the types that need it; the first that fits is taken."""
