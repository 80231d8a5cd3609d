"""One op with concrete operands, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from autoshard._compat import key_implementation
from autoshard.rules._rule import OpRule

Arrays = tuple[np.ndarray, ...]
"""Host arrays. PRNG keys are kept as their words: the key's dimensions, then those of one key."""


@dataclass(frozen=True, eq=False)
class Op:
    """A primitive, its params, the avals of its operands and results, and its rule.

    Args:
        primitive: The primitive.
        params: Its params.
        operands: Avals of the operands.
        results: Avals of the results.
        rule: The rule under test.
    """

    primitive: core.Primitive
    params: Mapping[str, Any]
    operands: tuple[Any, ...]
    results: tuple[Any, ...]
    rule: OpRule

    def run(self, operands: Sequence[np.ndarray], **changed: Any) -> Arrays:
        """Run the primitive on operands of any shape.

        Args:
            operands: One array per operand.
            **changed: Params that are not those of the whole op.

        Returns:
            The results.
        """
        arrays = [
            to_device(array, aval.dtype)
            for array, aval in zip(operands, self.operands, strict=True)
        ]
        out = self.primitive.bind(*arrays, **{**self.params, **changed})
        return tuple(to_host(o) for o in (out if self.primitive.multiple_results else [out]))


def is_key(dtype: Any) -> bool:
    """Whether a type is that of PRNG keys."""
    return jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)


def to_device(array: np.ndarray, dtype: Any) -> jax.Array:
    """A host array as the operand of a primitive."""
    if is_key(dtype):
        return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=key_implementation(dtype))
    return jax.numpy.asarray(array)


def to_host(array: jax.Array) -> np.ndarray:
    """A result as a host array."""
    if is_key(array.dtype):
        array = jax.random.key_data(array)
    return np.asarray(array)
