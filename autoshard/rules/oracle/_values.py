"""Random operands inside an op's domain.

Floats are quarters between -2 and 2: sums and products of a few are exact, so that the order in
which shards are combined does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from autoshard.rules.oracle._op import Arrays, Op, is_key

Draw = Callable[[Op, np.random.Generator], Arrays]


def random_operands(op: Op, rng: np.random.Generator) -> Arrays:
    """Draw operands for an op.

    Args:
        op: The op.
        rng: The source of randomness.

    Returns:
        One host array per operand.
    """
    return DRAW.get(str(op.primitive), _plain)(op, rng)


def random_array(aval: Any, rng: np.random.Generator) -> np.ndarray:
    """An array of an aval's shape and type."""
    shape, dtype = tuple(aval.shape), aval.dtype
    if is_key(dtype):
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        return rng.integers(0, 2**32, words.shape, dtype=np.uint32)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.unsignedinteger):
        return rng.integers(0, 7, shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-5, 6, shape).astype(dtype)
    quarters = rng.integers(-8, 9, shape) / 4
    if np.issubdtype(dtype, np.complexfloating):
        return (quarters + 1j * rng.integers(-8, 9, shape) / 4).astype(dtype)
    return np.asarray(quarters).astype(dtype)


def _plain(op: Op, rng: np.random.Generator) -> Arrays:
    return tuple(random_array(aval, rng) for aval in op.operands)


def _within(low: float, high: float) -> Draw:
    def draw(op: Op, rng: np.random.Generator) -> Arrays:
        return tuple(
            rng.uniform(low, high, aval.shape).astype(aval.dtype)
            if not is_key(aval.dtype) and np.issubdtype(aval.dtype, np.floating)
            else random_array(aval, rng)
            for aval in op.operands
        )

    return draw


def _polygamma(op: Op, rng: np.random.Generator) -> Arrays:
    order, x = op.operands
    return (
        rng.integers(1, 4, order.shape).astype(order.dtype),
        rng.uniform(0.5, 4.0, x.shape).astype(x.dtype),
    )


def _divide(op: Op, rng: np.random.Generator) -> Arrays:
    x, y = _plain(op, rng)
    return x, np.where(y == 0, np.ones((), y.dtype), y)


def _shift(op: Op, rng: np.random.Generator) -> Arrays:
    x, y = _plain(op, rng)
    return x, np.abs(y)


def _indices(at: int) -> Draw:
    """Indices a little beyond the bounds on both sides, unless the op promises otherwise."""

    def draw(op: Op, rng: np.random.Generator) -> Arrays:
        arrays = list(_plain(op, rng))
        numbers = op.params["dimension_numbers"]
        targets = getattr(numbers, "start_index_map", None)
        if targets is None:
            targets = numbers.scatter_dims_to_operand_dims
        beyond = 0 if op.params["mode"].name == "PROMISE_IN_BOUNDS" else 2
        for column, d in enumerate(targets):
            window = op.params["slice_sizes"][d] if "slice_sizes" in op.params else 1
            size = op.operands[0].shape[d] - window + 1
            drawn = rng.integers(-beyond, size + beyond, arrays[at].shape[:-1])
            if op.params["unique_indices"]:
                drawn = rng.permutation(np.arange(drawn.size)).reshape(drawn.shape)
            drawn.flat[:1] %= size  # one at least hits, so that there is something to compare
            arrays[at][..., column] = drawn.astype(arrays[at].dtype)
        return tuple(arrays)

    return draw


def _starts(first: int) -> Draw:
    """Start indices of slices, also too far."""

    def draw(op: Op, rng: np.random.Generator) -> Arrays:
        arrays = list(_plain(op, rng))
        for d, at in enumerate(range(first, len(arrays))):
            start = rng.integers(0, op.operands[0].shape[d] + 1)
            arrays[at] = np.asarray(start, arrays[at].dtype)
        return tuple(arrays)

    return draw


def _definite(op: Op, rng: np.random.Generator) -> Arrays:
    """A positive definite, well conditioned matrix first; the rest at random."""
    first, *rest = _plain(op, rng)
    n = first.shape[-1]
    if first.shape[-2] == n:
        first = first @ np.swapaxes(first, -1, -2).conj() + 4 * n * np.eye(n, dtype=first.dtype)
    return (first.astype(op.operands[0].dtype), *rest)


def _tridiagonal(op: Op, rng: np.random.Generator) -> Arrays:
    low, mid, up, b = _plain(op, rng)
    return low, mid + np.asarray(8, mid.dtype), up, b


def _pivots(op: Op, rng: np.random.Generator) -> Arrays:
    (aval,) = op.operands
    n = aval.shape[-1]
    steps = rng.integers(0, n, aval.shape)
    return (np.maximum(steps, np.arange(n)).astype(aval.dtype),)


def _group_sizes(op: Op, rng: np.random.Generator) -> Arrays:
    """Sizes that add up to the ragged dimension."""
    lhs, rhs, _ = _plain(op, rng)
    numbers = op.params["ragged_dot_dimension_numbers"]
    rows = op.operands[0].shape[numbers.lhs_ragged_dimensions[0]]
    shape, dtype = op.operands[2].shape, op.operands[2].dtype
    edges = np.sort(rng.integers(0, rows + 1, (*shape[:-1], shape[-1] - 1)), axis=-1)
    full = np.concatenate(
        [np.zeros((*shape[:-1], 1)), edges, np.full((*shape[:-1], 1), rows)], axis=-1
    )
    return lhs, rhs, np.diff(full, axis=-1).astype(dtype)


DRAW: dict[str, Draw] = {
    "acosh": _within(1.1, 4.0),
    "asin": _within(-0.9, 0.9),
    "acos": _within(-0.9, 0.9),
    "atanh": _within(-0.9, 0.9),
    "cholesky": _definite,
    "digamma": _within(0.5, 4.0),
    "div": _divide,
    "dynamic_slice": _starts(1),
    "dynamic_update_slice": _starts(2),
    "eigh": _definite,
    "erf_inv": _within(-0.9, 0.9),
    "gather": _indices(1),
    "igamma": _within(0.5, 4.0),
    "igamma_grad_a": _within(0.5, 4.0),
    "igammac": _within(0.5, 4.0),
    "integer_pow": _within(0.5, 2.0),
    "lgamma": _within(0.5, 4.0),
    "log": _within(0.5, 4.0),
    "log1p": _within(-0.5, 4.0),
    "lu_pivots_to_permutation": _pivots,
    "polygamma": _polygamma,
    "pow": _within(0.5, 2.0),
    "ragged_dot_general": _group_sizes,
    "random_gamma": _within(0.5, 4.0),
    "regularized_incomplete_beta": _within(0.2, 0.8),
    "rem": _divide,
    "rsqrt": _within(0.5, 4.0),
    "scatter": _indices(1),
    "scatter-add": _indices(1),
    "scatter-max": _indices(1),
    "scatter-min": _indices(1),
    "scatter-mul": _indices(1),
    "scatter-sub": _indices(1),
    "shift_left": _shift,
    "shift_right_arithmetic": _shift,
    "shift_right_logical": _shift,
    "sqrt": _within(0.5, 4.0),
    "symmetric_product": _plain,
    "triangular_solve": _definite,
    "tridiagonal_solve": _tridiagonal,
    "zeta": _within(1.5, 4.0),
}
"""Primitives with a domain of their own."""
