"""Variants of ops that move elements."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from autoshard.rules.catalogue._variant import Table, f32, i32

_S = lax.GatherScatterMode


def _rows(x: jax.Array, i: jax.Array, mode: lax.GatherScatterMode) -> jax.Array:
    """``x[i]`` along the first dimension, in a mode."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(i.ndim - 1,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(x, i, numbers, (1, x.shape[1]), mode=mode)


def _partial_rows(x: jax.Array, i: jax.Array) -> jax.Array:
    """Slices of three rows."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0,)
    )
    return lax.gather(x, i, numbers, (3, x.shape[1]))


def _single_rows(x: jax.Array, i: jax.Array) -> jax.Array:
    """Slices of one row whose dimension is kept."""
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0,)
    )
    return lax.gather(x, i, numbers, (1, x.shape[1]))


def _partial_updates(x: jax.Array, i: jax.Array, u: jax.Array) -> jax.Array:
    """Updates of three rows."""
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )
    return lax.scatter_add(x, i, u, numbers)


def _sub(x: jax.Array, i: jax.Array, u: jax.Array) -> jax.Array:
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    return lax.scatter_sub(x, i[:, None], u, numbers)


TABLE: Table = {
    "broadcast_in_dim": {
        "expand": (lambda x: jnp.broadcast_to(x, (4, 6)), f32(4, 1)),
        "new": (lambda x: jnp.broadcast_to(x, (2, 4, 6)), f32(4, 6)),
        "scalar": (lambda x: jnp.broadcast_to(x, (4, 6)), f32()),
    },
    "concatenate": {
        "class token": (lambda x, y: jnp.concatenate([x, y], 0), f32(1, 4), f32(7, 4)),
        "three": (lambda x, y, z: jnp.concatenate([x, y, z], 1), f32(4, 2), f32(4, 6), f32(4, 8)),
        "two": (lambda x, y: jnp.concatenate([x, y], 1), f32(4, 8), f32(4, 8)),
    },
    "dynamic_slice": {
        "one element": (lambda x, i: lax.dynamic_slice(x, (i, 0), (1, 6)), f32(4, 6), i32()),
        "part": (lambda x, i: lax.dynamic_slice(x, (0, i), (4, 3)), f32(4, 6), i32()),
    },
    "dynamic_update_slice": {
        "one element": (
            lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)),
            f32(4, 6),
            f32(1, 6),
            i32(),
        ),
        "part": (
            lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i)),
            f32(4, 6),
            f32(4, 3),
            i32(),
        ),
    },
    "gather": {
        "batched": (lambda x, i: jnp.take_along_axis(x, i, 1), f32(4, 6), i32(4, 2)),
        "booleans": (lambda x, i: (x > 0)[i], f32(8, 4), i32(6)),
        "clip": (lambda x, i: _rows(x, i, _S.CLIP), f32(8, 4), i32(6, 1)),
        "embedding": (lambda x, i: jnp.take(x, i, 0), f32(8, 4), i32(2, 6)),
        "in bounds": (lambda x, i: _rows(x, i, _S.PROMISE_IN_BOUNDS), f32(8, 4), i32(6, 1)),
        "kept dimension": (_single_rows, f32(8, 4), i32(6, 1)),
        "partial slices": (_partial_rows, f32(8, 4), i32(6, 1)),
        "second dimension": (lambda x, i: x[:, i], f32(4, 8), i32(6)),
        "two indices": (lambda x, i, j: x[i, j], f32(8, 4, 2), i32(6), i32(6)),
    },
    "iota": {
        "one": (lambda: lax.iota(jnp.int32, 8),),
        "two": (lambda: lax.broadcasted_iota(jnp.int32, (4, 6), 1),),
    },
    "pad": {
        "both ends": (lambda x: jnp.pad(x, ((0, 0), (1, 1))), f32(4, 6)),
        "crop": (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-2, 0, 0))), f32(4, 8)),
        "high": (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 8, 0))), f32(4, 8)),
        "interior": (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 1, 1))), f32(4, 4)),
    },
    "reshape": {
        "add a one": (lambda x: lax.reshape(x, (4, 1, 6)), f32(4, 6)),
        "flatten": (jnp.ravel, f32(2, 4, 6)),
        "merge": (lambda x: x.reshape(2, 24), f32(2, 4, 6)),
        "merge and split": (lambda x: x.reshape(2, 2, 12), f32(2, 4, 6)),
        "no common divisor": (lambda x: x.reshape(2, 3), f32(3, 2)),
        "split": (lambda x: x.reshape(2, 4, 6), f32(8, 6)),
        "split in three": (lambda x: x.reshape(6, 2, 4, 2), f32(6, 16)),
        "swap with divisor": (lambda x: x.reshape(4, 6), f32(6, 4)),
    },
    "rev": {"one": (lambda x: jnp.flip(x, 1), f32(4, 8))},
    "scatter": {
        "batched": (
            jax.vmap(lambda x, i, u: x.at[i].set(u)),
            f32(4, 8),
            i32(4, 3),
            f32(4, 3),
        ),
        "rows": (lambda x, i, u: x.at[i].set(u), f32(8, 4), i32(6), f32(6, 4)),
    },
    "scatter-add": {
        "batched": (
            jax.vmap(lambda x, i, u: x.at[i].add(u)),
            f32(4, 8),
            i32(4, 2),
            f32(4, 2),
        ),
        "clip": (
            lambda x, i, u: x.at[i].add(u, mode="clip"),
            f32(8, 4),
            i32(6),
            f32(6, 4),
        ),
        "embedding gradient": (
            lambda x, i, u: x.at[i].add(u),
            f32(8, 4),
            i32(2, 6),
            f32(2, 6, 4),
        ),
        "partial updates": (_partial_updates, f32(8, 4), i32(6, 1), f32(6, 3, 4)),
        "two indices": (
            lambda x, i, j, u: x.at[i, j].add(u),
            f32(8, 4, 2),
            i32(6),
            i32(6),
            f32(6, 2),
        ),
    },
    "scatter-max": {
        "rows": (lambda x, i, u: x.at[i].max(u), f32(8, 4), i32(6), f32(6, 4)),
    },
    "scatter-min": {
        "rows": (lambda x, i, u: x.at[i].min(u), f32(8, 4), i32(6), f32(6, 4)),
    },
    "scatter-mul": {
        "rows": (
            lambda x, i, u: x.at[i].multiply(u, unique_indices=True),
            f32(8, 4),
            i32(6),
            f32(6, 4),
        ),
    },
    "scatter-sub": {"rows": (_sub, f32(8, 4), i32(6), f32(6, 4))},
    "slice": {
        "first half": (lambda x: x[:, :4], f32(4, 8)),
        "middle": (lambda x: x[:, 1:7], f32(4, 8)),
        "one element": (lambda x: lax.slice(x, (0, 7), (4, 8)), f32(4, 8)),
        "strided": (lambda x: lax.slice(x, (0, 0), (4, 8), (1, 2)), f32(4, 8)),
    },
    "split": {
        "three": (lambda x: jnp.split(x, 3, axis=1), f32(4, 12)),
        "uneven": (lambda x: lax.split(x, (2, 6), axis=1), f32(4, 8)),
    },
    "squeeze": {"two": (lambda x: jnp.squeeze(x, (0, 2)), f32(1, 4, 1, 6))},
    "stack": {"middle": (lambda x, y: jnp.stack([x, y], 1), f32(4, 6), f32(4, 6))},
    "tile": {"both": (lambda x: lax.tile(x, (2, 3)), f32(4, 6))},
    "transpose": {"three": (lambda x: jnp.transpose(x, (2, 0, 1)), f32(2, 4, 6))},
    "unstack": {"middle": (lambda x: jnp.unstack(x, axis=1), f32(4, 3, 6))},
}
