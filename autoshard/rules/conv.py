"""Convolutions, in every arrangement that jax's gradients produce.

Group counts split the feature (or batch) dimensions, with the group as major factor: ``([n, g c,
h], [g o, c, k])->([n, g o, h])``. A dimension's shards have to divide the group count: XLA aborts
the process otherwise, and a factor per group says just that.

Which windows are local is in `autoshard.rules._windows`. The convolution that yields a kernel's
gradient slides one image over another; its spatial dimensions could be summed in parts if borders
were exchanged too, which no kind of factor says, so they are whole.

XLA:CPU gathers where there are fewer groups than features, on every factor; XLA:TPU does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, register_rule
from autoshard.rules._rule import FactorKind, OpRule
from autoshard.rules._windows import Window, WindowTie


@register_rule("conv_general_dilated")
def conv_general_dilated(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """``([n, c, h], [o, c, k])->([n, o, h]) reduction={c:sum} halo={h} whole={k}``."""
    numbers = params["dimension_numbers"]
    lhs_n, lhs_c, *lhs_space = numbers.lhs_spec
    rhs_o, rhs_c, *rhs_space = numbers.rhs_spec
    out_n, out_c, *out_space = numbers.out_spec
    lhs, rhs, out = operands[0].shape, operands[1].shape, results[0].shape
    features, batches = params["feature_group_count"], params["batch_group_count"]
    builder = RuleBuilder(operands, results)
    builder.add(features, operands=[(0, lhs_c), (1, rhs_o)], results=[(0, out_c)])
    builder.add(batches, operands=[(0, lhs_n), (1, rhs_o)], results=[(0, out_c)])
    builder.add(lhs[lhs_n] // batches, operands=[(0, lhs_n)], results=[(0, out_n)])
    builder.add(
        rhs[rhs_c],
        operands=[(0, lhs_c), (1, rhs_c)],
        kind=FactorKind.REDUCTION,
        combine="sum",
    )
    builder.add(rhs[rhs_o] // (features * batches), operands=[(1, rhs_o)], results=[(0, out_c)])
    for d, (l, r, o) in enumerate(zip(lhs_space, rhs_space, out_space, strict=True)):
        low, high = params["padding"][d]
        window = Window(
            input=lhs[l],
            output=out[o],
            size=rhs[r],
            stride=params["window_strides"][d],
            low=low,
            high=high,
            input_dilation=params["lhs_dilation"][d],
            dilation=params["rhs_dilation"][d],
        )
        _spatial(builder, window, (0, l), (1, r), (0, o))
    return builder.finish()


def _spatial(
    builder: RuleBuilder,
    window: Window,
    lhs: tuple[int, int],
    rhs: tuple[int, int],
    out: tuple[int, int],
) -> None:
    """One spatial dimension."""
    tie = window.tie()
    if tie is WindowTie.SAME:
        builder.add(window.input, operands=[lhs], results=[out])
    elif tie is WindowTie.HALO:
        builder.add(window.input, operands=[lhs], results=[out], kind=FactorKind.HALO)
    elif tie is WindowTie.BLOCKS:
        builder.add(window.output, operands=[lhs], results=[out])
        if window.fills_blocks:
            builder.add(window.size, operands=[lhs, rhs], kind=FactorKind.REDUCTION, combine="sum")
        else:
            builder.add(window.stride_now, operands=[lhs], kind=FactorKind.WHOLE)
