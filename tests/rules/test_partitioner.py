"""What XLA's partitioner makes of the rules: no collective for a parallel factor, and so on.

Values cannot differ here; what is tested is that a plan made from the rules costs what it says.
"""

import numpy as np
import pytest

from autoshard.rules import FactorKind
from autoshard.rules.catalogue import variants
from autoshard.rules.oracle import ALLOWED, collectives, placed
from autoshard.rules.oracle._cut import smallest_cut

EXCEPT = {
    # XLA:CPU gathers what XLA:TPU does not; see the rules' modules.
    "conv_general_dilated (feature groups)",
    "fft (complex)",
    "fft (real)",
    "fft (two-dimensional)",
    "top_k (two)",
    # Loops until all elements converge: one flag is reduced.
    "igamma (plain)",
    "igamma_grad_a (plain)",
    "igammac (plain)",
    "regularized_incomplete_beta (plain)",
    # jax 0.10.2 cannot compile it in any partitioned program.
    "mulhi (plain)",
}
SAMPLE = {
    "concatenate (two)",
    "conv_general_dilated (3x3)",
    "dot_general (batched)",
    "dynamic_update_slice (one element)",
    "gather (embedding)",
    "reduce_max (one)",
    "reshape (merge and split)",
    "scatter-add (embedding gradient)",
    "slice (middle)",
}


def cases():
    for variant in variants():
        if variant.runs and variant.name not in EXCEPT:
            marks = [] if variant.name in SAMPLE else [pytest.mark.slow]
            yield pytest.param(variant, id=variant.name, marks=marks)


@pytest.mark.parametrize("variant", list(cases()))
def test_collectives_are_those_of_the_kind(variant) -> None:
    op = variant.op()
    for name in op.rule.shardable:
        sizes = [
            (op.operands if side == "operand" else op.results)[index].shape[d]
            for side, index, d in op.rule.places(name)
        ]
        shards = smallest_cut(int(np.gcd.reduce(sizes)))
        if shards > 1 and placed(op, name, shards):
            found = collectives(op, name, shards)
            assert set(found) <= ALLOWED[op.rule.factors[name].kind], f"{name}: {found}"


def test_collectives_are_seen() -> None:
    """The reading can fail: a reduction is an all-reduce, whatever its rule calls it."""
    (variant,) = [v for v in variants() if v.name == "dot_general (matrix matrix)"]
    op = variant.op()
    (contracted,) = op.rule.of_kind(FactorKind.REDUCTION)
    assert collectives(op, contracted, 2) == {"all-reduce": 1}


def test_what_specs_cannot_say_is_not_placed() -> None:
    """A minor factor, and a dimension that the shards do not divide."""
    (variant,) = [v for v in variants() if v.name == "reshape (merge)"]
    op = variant.op()
    assert [placed(op, name, 2) for name in ("i", "j", "k")] == [True, True, False]
    assert not placed(op, "j", 3)
