"""In which type the partial gradients of the batch are combined."""

from __future__ import annotations

from autoshard.errors import OptionError
from autoshard.recipes._context import Context
from autoshard.rules import FactorKind

REDUCE_DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
"""Types in which partial gradients may be combined → bytes."""


def sum_dtypes(context: Context, reduce_dtype: str | None) -> dict[int, str]:
    """Ops that sum over the batch, with the type in which that is done where it is not their own.

    Sums of many small numbers of few digits lose the smaller ones: bfloat16 has 8 bits. Gradients
    of float32 parameters that a model computes in bfloat16 are combined in float32 therefore.

    Args:
        context: The program.
        reduce_dtype: The type, or None for the widest one of the parameters.

    Returns:
        Op id → name of the type.

    Raises:
        OptionError: It is no type of floating-point numbers.
    """
    if reduce_dtype is not None and reduce_dtype not in REDUCE_DTYPES:
        raise OptionError("reduce_dtype", reduce_dtype, ", ".join((*REDUCE_DTYPES, "None")))
    program = context.ruled.program
    parameters = {
        str(program.argument_value(leaf).aval.dtype)
        for leaf in program.arguments
        if leaf.op in context.parameters or leaf.op in context.learned
    }
    known = sorted(parameters & REDUCE_DTYPES.keys())
    chosen = reduce_dtype or max(known, key=lambda dtype: REDUCE_DTYPES[dtype], default=None)
    if chosen is None:
        return {}
    found: dict[int, str] = {}
    for op_id in context.gradient_ops:
        op, rule = program.ops[op_id], context.ruled.rules[op_id]
        name = context.batch_factor(op_id)
        if rule is None or name is None or rule.factors[name].kind is not FactorKind.REDUCTION:
            continue
        own = str(program.values[op.results[0]].aval.dtype)
        if own not in REDUCE_DTYPES or own == chosen:
            continue
        if reduce_dtype is not None or REDUCE_DTYPES[own] < REDUCE_DTYPES[chosen]:
            found[op_id] = chosen
    return found
