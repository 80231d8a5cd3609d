"""Which ops are cheap enough to be repeated for every use.

A constant that is broadcast once and used in twenty places would tie twenty unrelated tensors to
one sharding. Such chains are split instead: every use gets its own copy (as Shardy does with
constants, "Constant splitting"). PRNG-key arithmetic is split for the same reason.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from autoshard.tracing._program import nbytes

_CHAINS = frozenset(
    {
        "broadcast_in_dim",
        "bitcast_convert_type",
        "concatenate",
        "convert_element_type",
        "copy",
        "dynamic_slice",
        "expand_dims",
        "iota",
        "reshape",
        "slice",
        "squeeze",
        "transpose",
        "unstack",
    }
)
"""Ops that only make or re-arrange data; one whose operands are all constants is a constant."""

_KEY_OPS = frozenset(
    {
        "random_clone",
        "random_fold_in",
        "random_seed",
        "random_split",
        "random_unwrap",
        "random_wrap",
    }
)

_KEY_MATERIAL_BYTES = 1024
"""Slices and reshapes of key data up to this size belong to the key chain."""

MAX_CHAIN = 32
"""Ops that one more use may cost. A longer chain (a key that is split at every layer) is cut: from
there on all uses share what the chain has made so far, and new chains begin."""


def is_key(aval: Any) -> bool:
    """Whether an abstract value is a typed PRNG key array."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype):
        return False
    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def is_repeatable(
    primitive: str, operand_avals: list[Any], operands_repeatable: bool, results: list[Any]
) -> bool:
    """Whether each use of an op's results may get a copy of the op.

    Args:
        primitive: Its name.
        operand_avals: Avals of its non-literal operands.
        operands_repeatable: Whether all of them are literals or come from repeatable ops.
        results: Avals of its results.

    Returns:
        True for constant chains and PRNG-key chains.
    """
    if primitive in _KEY_OPS:
        return True
    if primitive not in _CHAINS:
        return False
    if operands_repeatable:
        return True
    if primitive == "broadcast_in_dim" and all(a.shape == () for a in operand_avals):
        return True  # a scalar that is spread out: the scalar itself is shared, its copies are not
    return (
        all(is_key(a) for a in operand_avals)
        and sum(nbytes(a) for a in results) <= _KEY_MATERIAL_BYTES
    )
