"""Leaves that are no arrays, as JSON: numbers of any size, texts, bytes, numpy scalars."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import ml_dtypes
import numpy as np

from autoshard.checkpoint._zarr import dtype_of

_INT64 = range(-(2**63), 2**63)


def is_value(leaf: Any) -> bool:
    """Whether `encode_value` takes a leaf."""
    if isinstance(leaf, np.generic):
        # Neither texts and records nor long doubles, whose size depends on the machine.
        dtype = leaf.dtype
        return hasattr(ml_dtypes, dtype.name) or (
            dtype.kind in "biufcmM" and dtype.char not in "gG"
        )
    # What inherits from these, such as an IntEnum, would come back as something else.
    return leaf is None or type(leaf) in (bool, int, float, complex, str, bytes)


def encode_value(leaf: Any) -> dict[str, Any]:
    """A leaf as JSON that `decode_value` turns into an equal one of the same type."""
    if isinstance(leaf, np.generic):  # before the others: np.float64 is a float
        array = np.asarray(leaf)
        return {"kind": "numpy", "dtype": array.dtype.name, "hex": array.tobytes().hex()}
    if leaf is None or isinstance(leaf, bool | str):
        return {"kind": "none" if leaf is None else type(leaf).__name__, "value": leaf}
    if isinstance(leaf, int):
        return {"kind": "int", "value": str(int(leaf))}  # JSON readers round large numbers
    if isinstance(leaf, float):
        return {"kind": "float", "value": float(leaf).hex()}
    if isinstance(leaf, complex):
        return {"kind": "complex", "value": [leaf.real.hex(), leaf.imag.hex()]}
    return {"kind": "bytes", "value": leaf.hex()}


def decode_value(value: dict[str, Any]) -> Any:
    """The leaf that `encode_value` was given."""
    kind, content = value["kind"], value.get("value")
    if kind == "numpy":
        dtype = dtype_of(value["dtype"])
        return np.frombuffer(bytes.fromhex(value["hex"]), dtype)[0]
    if kind == "int":
        return int(content)  # pyright: ignore[reportArgumentType]
    if kind == "float":
        return float.fromhex(content)  # pyright: ignore[reportArgumentType]
    if kind == "complex":
        real, imaginary = content  # pyright: ignore[reportGeneralTypeIssues]
        return complex(float.fromhex(real), float.fromhex(imaginary))
    if kind == "bytes":
        return bytes.fromhex(content)  # pyright: ignore[reportArgumentType]
    return content


def value_digest(value: dict[str, Any]) -> str:
    """SHA-256 of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def orbax_scalar(leaf: Any) -> np.ndarray[Any, Any] | None:
    """The array of rank 0 in which orbax keeps a number; None for what it does not take."""
    if isinstance(leaf, bool | np.generic):
        return None
    if isinstance(leaf, int) and leaf in _INT64:
        return np.asarray(leaf, np.int64)
    return np.asarray(leaf, np.float64) if isinstance(leaf, float) else None
