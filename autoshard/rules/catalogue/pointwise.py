"""Variants of pointwise ops and identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import primitives

from autoshard.rules.catalogue._variant import Example, Table, bools, c64, f32, i32, keys, u32

SHAPE = (6,)

_UNARY_F32 = (
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bessel_i0e",
    "bessel_i1e",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "is_finite",
    "lgamma",
    "log",
    "log1p",
    "logistic",
    "neg",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "tan",
    "tanh",
)
_BINARY_F32 = (
    "add",
    "atan2",
    "complex",
    "div",
    "eq",
    "ge",
    "gt",
    "igamma",
    "igamma_grad_a",
    "igammac",
    "le",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "nextafter",
    "polygamma",
    "pow",
    "rem",
    "sub",
    "zeta",
)
_BINARY_U32 = (
    "and",
    "mulhi",
    "or",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "xor",
)
_COMPLEX = ("conj", "imag", "real")


def _bind(name: str, **params: Any) -> Callable[..., Any]:
    """A primitive by its name in `jax.lax` or among jax's primitives."""
    primitive = getattr(lax, f"{name}_p", None) or getattr(primitives, f"{name}_p")

    def run(*operands: Any) -> Any:
        return primitive.bind(*operands, **params)

    return run


def _by_function(name: str) -> Callable[..., Any]:
    return getattr(lax, f"bitwise_{name}" if name in ("and", "or", "xor") else name)


def _uniform(names: Any, aval: Callable[..., Any], arity: int) -> dict[str, dict[str, Example]]:
    return {n: {"plain": (_by_function(n), *[aval(*SHAPE)] * arity)} for n in names}


TABLE: Table = {
    **_uniform([n for n in _UNARY_F32 if n != "stop_gradient"], f32, 1),
    **_uniform([n for n in _BINARY_F32 if n not in ("add", "mul")], f32, 2),
    **_uniform(_BINARY_U32, u32, 2),
    **_uniform(_COMPLEX, c64, 1),
    "add": {
        "plain": (lax.add, f32(4, 6), f32(4, 6)),
        "rank 0": (lax.add, f32(4, 6), f32()),
        "scalars": (lax.add, f32(), f32()),
        "size 1": (lax.add, f32(4, 6), f32(1, 6)),
    },
    "add_any": {"plain": (_bind("add_jaxvals"), f32(6), f32(6))},
    "bitcast_convert_type": {
        "narrower": (lambda x: lax.bitcast_convert_type(x, jnp.uint8), f32(4, 6)),
        "same width": (lambda x: lax.bitcast_convert_type(x, jnp.uint32), f32(4, 6)),
        "wider": (
            lambda x: lax.bitcast_convert_type(x, jnp.uint32),
            jax.ShapeDtypeStruct((4, 6, 2), jnp.uint16),
        ),
    },
    "clamp": {
        "full bounds": (lax.clamp, f32(4, 6), f32(4, 6), f32(4, 6)),
        "scalar bounds": (lambda x: lax.clamp(-1.0, x, 1.0), f32(4, 6)),
    },
    "clz": {"plain": (lax.clz, u32(6))},
    "convert_element_type": {"plain": (lambda x: x.astype(jnp.bfloat16), f32(6))},
    "copy": {"plain": (jnp.copy, f32(6))},
    "device_put": {"plain": (jax.device_put, f32(6))},
    "eq_to": {"plain": (_bind("eq_to"), f32(6), f32(6))},
    "integer_pow": {"cube": (lambda x: lax.integer_pow(x, 3), f32(6))},
    "le_to": {"plain": (_bind("le_to"), f32(6), f32(6))},
    "lt_to": {"plain": (_bind("lt_to"), f32(6), f32(6))},
    "mul": {
        "plain": (lax.mul, f32(4, 6), f32(4, 6)),
        "rank 0": (lax.mul, f32(), f32(4, 6)),
    },
    "name": {"plain": (lambda x: checkpoint_name(x, "x"), f32(6))},
    "not": {"plain": (lax.bitwise_not, u32(6))},
    "optimization_barrier": {
        "two": (lambda x, y: lax.optimization_barrier((x, y)), f32(4, 6), f32(8)),
    },
    "population_count": {"plain": (lax.population_count, u32(6))},
    "random_clone": {"plain": (jax.random.clone, keys(4))},
    "random_fold_in": {"batch": (jax.vmap(jax.random.fold_in), keys(4), u32(4))},
    "reduce_precision": {"plain": (lambda x: lax.reduce_precision(x, 8, 7), f32(6))},
    "regularized_incomplete_beta": {"plain": (lax.betainc, f32(6), f32(6), f32(6))},
    "select_n": {
        "full predicate": (lax.select_n, bools(4, 6), f32(4, 6), f32(4, 6)),
        "scalar predicate": (lax.select_n, bools(), f32(4, 6), f32(4, 6)),
        "three cases": (lax.select_n, i32(4, 6), f32(4, 6), f32(4, 6), f32(4, 6)),
    },
    "stop_gradient": {"plain": (lax.stop_gradient, f32(6))},
    "threefry2x32": {
        "plain": (_bind("threefry2x32"), u32(6), u32(6), u32(6), u32(6)),
    },
}
