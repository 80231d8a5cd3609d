"""Pointwise ops: every operand has the result's shape, or is broadcast into it.

``([i, j], [i, j], [])->([i, j])``. jax allows an operand of rank zero beside operands of full rank,
and a dimension of size one beside a longer one; such an operand is read whole on that dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import OpRule

POINTWISE = (
    "abs",
    "acos",
    "acosh",
    "add",
    "add_any",
    "and",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bessel_i0e",
    "bessel_i1e",
    "cbrt",
    "ceil",
    "clamp",
    "clz",
    "complex",
    "conj",
    "convert_element_type",
    "copy",
    "cos",
    "cosh",
    "digamma",
    "div",
    "eq",
    "eq_to",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "igamma",
    "igamma_grad_a",
    "igammac",
    "imag",
    "integer_pow",
    "is_finite",
    "le",
    "le_to",
    "lgamma",
    "log",
    "log1p",
    "log2",  # from jax 0.11 on
    "logistic",
    "lt",
    "lt_to",
    "max",
    "min",
    "mul",
    "mulhi",  # jax 0.10.2 cannot compile it in a partitioned program, sharded or not
    "name",
    "ne",
    "neg",
    "nextafter",
    "not",
    "one_minus_square",  # from jax 0.11 on
    "or",
    "polygamma",
    "population_count",
    "pow",
    "random_clone",
    "random_fold_in",
    "real",
    "reduce_precision",
    "regularized_incomplete_beta",
    "rem",
    "round",
    "rsqrt",
    "select_n",
    "shift_left",
    "shift_right_arithmetic",
    "shift_right_logical",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "sub",
    "tan",
    "tanh",
    "threefry2x32",
    "xor",
    "zeta",
)
"""Operands and results index alike. `threefry2x32` is among them: it hashes counters one by one,
with keys already broadcast to their shape. So are functions that XLA computes in a loop until all
elements converge (`igamma`, `regularized_incomplete_beta`): sharded, they all-reduce one flag."""

IDENTITIES = (
    "device_put",
    "layout_constraint",
    "optimization_barrier",
    "reshard",
    "sharding_constraint",
    "with_memory_space_constraint",
)
"""Result number n is operand number n; the operands are not related to each other."""


@register_rule(*POINTWISE)
def pointwise(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i, j], [i, j])->([i, j])``; operands of rank zero and dimensions of size one stay out."""
    builder = RuleBuilder(operands, results)
    shape = results[0].shape
    for d, size in enumerate(shape):
        builder.add(
            size,
            operands=[
                (index, d)
                for index, operand in enumerate(operands)
                if len(operand.shape) == len(shape) and operand.shape[d] == size
            ],
            results=[(index, d) for index in range(len(results))],
        )
    return builder.finish()


@register_rule(*IDENTITIES)
def identity(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([i], [j, k])->([i], [j, k])``."""
    builder = RuleBuilder(operands, results)
    for index, operand in enumerate(operands):
        for d, size in enumerate(operand.shape):
            builder.add(size, operands=[(index, d)], results=[(index, d)])
    return builder.finish()


@register_rule("bitcast_convert_type")
def bitcast_convert_type(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """Pointwise; a change of width adds or removes a last dimension, which is whole."""
    builder = RuleBuilder(operands, results)
    common = min(len(operands[0].shape), len(results[0].shape))
    for d in range(common):
        builder.add(results[0].shape[d], operands=[(0, d)], results=[(0, d)])
    return builder.finish()
