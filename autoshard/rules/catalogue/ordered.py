"""Variants of reductions, windows, sorts, random bits and linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from autoshard.rules.catalogue._variant import Table, bools, f32, i32, keys, u32


def _pool(
    window: int, stride: int, padding: str = "VALID", *, start: float, op: Any
) -> Callable[..., Any]:
    def run(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, start, op, (1, window), (1, stride), padding)

    return run


def _max_pool(window: int, stride: int, padding: str = "VALID") -> Callable[..., Any]:
    return _pool(window, stride, padding, start=-jnp.inf, op=lax.max)


def _max_pool_gradient(window: int, stride: int, padding: str = "VALID") -> Callable[..., Any]:
    def run(x: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(_max_pool(window, stride, padding), x)[1](g)[0]

    return run


def _select_and_scatter(x: jax.Array, g: jax.Array) -> jax.Array:
    return lax.select_and_scatter_p.bind(  # no function of jax.lax makes it
        x, g, jnp.zeros((), x.dtype), **_select_and_scatter_params()
    )


def _select_and_scatter_params() -> dict[str, Any]:
    scalar = f32()
    ge, add = jax.make_jaxpr(lax.ge)(scalar, scalar), jax.make_jaxpr(lax.add)(scalar, scalar)
    return {
        "select_jaxpr": ge.jaxpr,
        "select_consts": (),
        "scatter_jaxpr": add.jaxpr,
        "scatter_consts": (),
        "window_dimensions": (1, 2),
        "window_strides": (1, 2),
        "padding": ((0, 0), (0, 0)),
    }


def _axes(function: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    return (lambda x: function(x, axis=1), f32(4, 6))


def _over(function: Any, aval: Any) -> dict[str, Any]:
    return {
        "all": (lambda x: function(x, (0, 1)), aval),
        "one": (lambda x: function(x, (1,)), aval),
    }


TABLE: Table = {
    "approx_top_k": {"two": (lambda x: lax.approx_max_k(x, 2), f32(4, 8))},
    "argmax": {"one": _axes(jnp.argmax)},
    "argmin": {"one": _axes(jnp.argmin)},
    "cholesky": {"batch": (jnp.linalg.cholesky, f32(4, 3, 3))},
    "cholesky_update": {"matrix": (lax.linalg.cholesky_update, f32(3, 3), f32(3))},
    "cumlogsumexp": {"one": (lambda x: lax.cumlogsumexp(x, 1), f32(4, 6))},
    "cummax": {"one": (lambda x: lax.cummax(x, 1), f32(4, 6))},
    "cummin": {"one": (lambda x: lax.cummin(x, 1), f32(4, 6))},
    "cumprod": {"one": (lambda x: lax.cumprod(x, 1), f32(4, 6))},
    "cumsum": {"one": (lambda x: lax.cumsum(x, 1), f32(4, 6))},
    "custom_linear_solve": {"solve": (jnp.linalg.solve, f32(4, 3, 3), f32(4, 3, 2))},
    "eig": {"batch": (jnp.linalg.eig, f32(4, 3, 3))},
    "eigh": {"batch": (jnp.linalg.eigh, f32(4, 3, 3))},
    "fft": {
        "complex": (jnp.fft.fft, f32(4, 6)),
        "real": (jnp.fft.rfft, f32(4, 6)),
        "two-dimensional": (jnp.fft.rfft2, f32(4, 6, 6)),
    },
    "hessenberg": {"batch": (lax.linalg.hessenberg, f32(4, 3, 3))},
    "householder_product": {
        "batch": (lax.linalg.householder_product, f32(4, 3, 3), f32(4, 3)),
    },
    "lu": {"batch": (lax.linalg.lu, f32(4, 3, 3))},
    "lu_pivots_to_permutation": {
        "batch": (lambda p: lax.linalg.lu_pivots_to_permutation(p, 3), i32(4, 3)),
    },
    "qr": {"batch": (jnp.linalg.qr, f32(4, 3, 3))},
    "random_bits": {
        "batch of keys": (jax.vmap(lambda k: jax.random.bits(k, (6,))), keys(4)),
        "one key": (lambda k: jax.random.bits(k, (4, 6)), keys()),
    },
    "random_gamma": {"one key": (jax.random.gamma, keys(), f32(4))},
    "random_seed": {"one": (jax.random.key, i32())},
    "random_split": {
        "batch of keys": (jax.vmap(jax.random.split), keys(4)),
        "one key": (lambda k: jax.random.split(k, 3), keys()),
    },
    "random_unwrap": {"batch": (jax.random.key_data, keys(4))},
    "random_wrap": {"batch": (jax.random.wrap_key_data, u32(4, 2))},
    "reduce": {
        "any computation": (
            lambda x: lax.reduce(x, jnp.float32(0), lambda a, b: a + b + a * b, (1,)),
            f32(4, 6),
        ),
    },
    "reduce_and": _over(lax.reduce_and, bools(4, 6)),
    "reduce_max": _over(lax.reduce_max, f32(4, 6)),
    "reduce_min": _over(lax.reduce_min, f32(4, 6)),
    "reduce_or": _over(lax.reduce_or, bools(4, 6)),
    "reduce_prod": _over(lax.reduce_prod, f32(4, 4)),
    "reduce_sum": _over(lax.reduce_sum, f32(4, 6)),
    "reduce_window": {
        "any computation": (
            _pool(2, 2, start=0.0, op=lambda a, b: a + b + a * b),
            f32(4, 8),
        ),
    },
    "reduce_window_max": {
        "global": (_max_pool(8, 1), f32(4, 8)),
        "overlapping": (_max_pool(3, 2, "SAME"), f32(4, 8)),
        "side by side": (_max_pool(2, 2), f32(4, 8)),
    },
    "reduce_window_min": {
        "overlapping": (_pool(3, 2, "SAME", start=jnp.inf, op=lax.min), f32(4, 8))
    },
    "reduce_window_sum": {
        "overlapping": (_pool(3, 1, "SAME", start=0.0, op=lax.add), f32(4, 8)),
        "side by side": (_pool(2, 2, start=0.0, op=lax.add), f32(4, 8)),
    },
    "reduce_xor": _over(lax.reduce_xor, u32(4, 6)),
    "rng_bit_generator": {
        "threefry": (
            lambda k: lax.rng_bit_generator(k, (4, 6), algorithm=lax.RandomAlgorithm.RNG_THREE_FRY),
            u32(4),
        ),
    },
    "rng_uniform": {"plain": (lambda a, b: lax.rng_uniform(a, b, (4, 6)), f32(), f32())},
    "schur": {"batch": (lax.linalg.schur, f32(4, 3, 3))},
    "select_and_gather_add": {
        "overlapping": (
            lambda x, t: jax.jvp(_max_pool(3, 2, "SAME"), (x,), (t,))[1],
            f32(4, 8),
            f32(4, 8),
        ),
    },
    "select_and_scatter": {"side by side": (_select_and_scatter, f32(4, 8), f32(4, 4))},
    "select_and_scatter_add": {
        "overlapping": (_max_pool_gradient(3, 2, "SAME"), f32(4, 8), f32(4, 4)),
        "side by side": (_max_pool_gradient(2, 2), f32(4, 8), f32(4, 4)),
    },
    "sort": {
        "keys and values": (lambda x: jnp.argsort(x, axis=1), f32(4, 6)),
        "one": (lambda x: jnp.sort(x, axis=0), f32(4, 6)),
    },
    "svd": {"batch": (lambda x: jnp.linalg.svd(x, full_matrices=False), f32(4, 3, 3))},
    "symmetric_product": {
        "batch": (lambda x, c: lax.linalg.symmetric_product(x, c), f32(4, 3, 2), f32(4, 3, 3)),
    },
    "top_k": {"two": (lambda x: lax.top_k(x, 2), f32(4, 8))},
    "triangular_solve": {
        "batch": (
            lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True, lower=True),
            f32(4, 3, 3),
            f32(4, 3, 2),
        ),
    },
    "tridiagonal": {"batch": (lax.linalg.tridiagonal, f32(4, 3, 3))},
    "tridiagonal_solve": {
        "batch": (
            lax.linalg.tridiagonal_solve,
            f32(4, 3),
            f32(4, 3),
            f32(4, 3),
            f32(4, 3, 2),
        ),
    },
}
