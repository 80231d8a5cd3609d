"""Variants of products and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from autoshard.rules.catalogue._variant import Table, bools, f32, i32

_NHWC = ("NHWC", "HWIO", "NHWC")


def _conv(**options: Any) -> Callable[..., Any]:
    """A two-dimensional convolution, channels last."""

    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        kind: dict[str, Any] = {"window_strides": (1, 1), "padding": "SAME", **options}
        return lax.conv_general_dilated(x, w, dimension_numbers=_NHWC, **kind)

    return run


def _kernel_gradient(**options: Any) -> Callable[..., Any]:
    def run(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda w: _conv(**options)(x, w), w)[1](g)[0]

    return run


def _input_gradient(**options: Any) -> Callable[..., Any]:
    def run(x: jax.Array, w: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: _conv(**options)(x, w), x)[1](g)[0]

    return run


TABLE: Table = {
    "conv_general_dilated": {
        "1-D causal": (
            lambda x, w: lax.conv_general_dilated(
                x, w, (1,), ((3, 0),), dimension_numbers=("NWC", "WIO", "NWC")
            ),
            f32(2, 8, 4),
            f32(4, 4, 6),
        ),
        "1x1": (_conv(), f32(2, 8, 8, 4), f32(1, 1, 4, 6)),
        "1x1 strided": (_conv(window_strides=(2, 2)), f32(2, 8, 8, 4), f32(1, 1, 4, 6)),
        "3x3": (_conv(), f32(2, 8, 8, 4), f32(3, 3, 4, 6)),
        "3x3 strided": (_conv(window_strides=(2, 2)), f32(2, 8, 8, 4), f32(3, 3, 4, 6)),
        "batch groups": (_conv(batch_group_count=2), f32(4, 8, 8, 4), f32(3, 3, 4, 6)),
        "depthwise": (_conv(feature_group_count=4), f32(2, 8, 8, 4), f32(3, 3, 1, 4)),
        "dilated": (_conv(rhs_dilation=(2, 2)), f32(2, 8, 8, 4), f32(3, 3, 4, 6)),
        "feature groups": (_conv(feature_group_count=2), f32(2, 8, 8, 4), f32(3, 3, 2, 6)),
        "gradient, 1x1 kernel": (
            _kernel_gradient(),
            f32(2, 8, 8, 4),
            f32(1, 1, 4, 6),
            f32(2, 8, 8, 6),
        ),
        "gradient, 3x3 kernel": (
            _kernel_gradient(),
            f32(2, 8, 8, 4),
            f32(3, 3, 4, 6),
            f32(2, 8, 8, 6),
        ),
        "gradient, grouped kernel": (
            _kernel_gradient(feature_group_count=2),
            f32(2, 8, 8, 4),
            f32(3, 3, 2, 6),
            f32(2, 8, 8, 6),
        ),
        "gradient, input": (
            _input_gradient(),
            f32(2, 8, 8, 4),
            f32(3, 3, 4, 6),
            f32(2, 8, 8, 6),
        ),
        "gradient, strided input": (
            _input_gradient(window_strides=(2, 2)),
            f32(2, 8, 8, 4),
            f32(3, 3, 4, 6),
            f32(2, 4, 4, 6),
        ),
        "gradient, strided kernel": (
            _kernel_gradient(window_strides=(2, 2)),
            f32(2, 8, 8, 4),
            f32(3, 3, 4, 6),
            f32(2, 4, 4, 6),
        ),
        "patches": (
            _conv(window_strides=(4, 4), padding="VALID"),
            f32(2, 8, 8, 4),
            f32(4, 4, 4, 6),
        ),
        "transposed": (
            _conv(lhs_dilation=(2, 2), padding=((1, 2), (1, 2))),
            f32(2, 8, 8, 4),
            f32(3, 3, 4, 6),
        ),
    },
    "dot_general": {
        "batched": (
            lambda x, y: jnp.einsum("bqhd,bkhd->bhqk", x, y),
            f32(2, 4, 6, 8),
            f32(2, 10, 6, 8),
        ),
        "booleans": (
            lambda x, y: lax.dot_general(x, y, (((1,), (0,)), ((), ()))),
            bools(4, 6),
            bools(6, 8),
        ),
        "many dimensions": (
            lambda x, y: jnp.einsum("ijklon,mnoji->ijmkl", x, y),
            f32(2, 2, 2, 4, 2, 6),
            f32(4, 6, 2, 2, 2),
        ),
        "matrix matrix": (jnp.matmul, f32(8, 4), f32(4, 16)),
        "matrix vector": (jnp.matmul, f32(8, 4), f32(4)),
        "outer": (lambda x, y: lax.dot_general(x, y, (((), ()), ((), ()))), f32(4), f32(6)),
        "vector matrix": (jnp.matmul, f32(4), f32(4, 6)),
        "vector vector": (jnp.matmul, f32(4), f32(4)),
    },
    "ragged_dot_general": {
        "batch": (
            lambda x, y, g: lax.ragged_dot_general(
                x,
                y,
                g,
                lax.RaggedDotDimensionNumbers(
                    dot_dimension_numbers=(((2,), (2,)), ((0,), (1,))),
                    lhs_ragged_dimensions=(1,),
                    rhs_group_dimensions=(0,),
                ),
            ),
            f32(2, 8, 4),
            f32(3, 2, 4, 6),
            i32(2, 3),
        ),
        "contracted": (
            lambda x, y, g: lax.ragged_dot_general(
                x,
                y,
                g,
                lax.RaggedDotDimensionNumbers(
                    dot_dimension_numbers=(((0,), (0,)), ((), ())),
                    lhs_ragged_dimensions=(0,),
                    rhs_group_dimensions=(),
                ),
            ),
            f32(8, 4),
            f32(8, 6),
            i32(3),
        ),
        "experts": (lax.ragged_dot, f32(8, 4), f32(2, 4, 6), i32(2)),
    },
}
