"""Convolutions cut in every way that a label may say: the numbers of the whole one.

The partitioner cannot be trusted with them, so that what is legal and what is written out are
proven together, by running.
"""

import itertools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from autoshard.errors import LabellingError
from autoshard.lowering import lower_plan
from autoshard.plan import Labelling, MeshShape, find_roles, make_plan
from autoshard.rules import with_rules
from autoshard.rules.catalogue import variants
from autoshard.tracing import trace

MESH = MeshShape(("a", "b", "c"), (2, 2, 2))
VARIANTS = [v for v in variants() if v.runs and v.name.startswith("conv_general_dilated")]
QUICK = ("3x3)", "patches", "batch groups", "gradient, grouped kernel")


def labels(names: list[str]) -> Iterator[dict[str, tuple[str, ...]]]:
    """One factor, two and three, over one axis each and over two."""
    for name in names:
        yield {name: ("a", "b")}
    for first, second in itertools.permutations(names, 2):
        yield {first: ("a",), second: ("b",)}
        yield {first: ("a", "c"), second: ("b",)}
    for three in itertools.combinations(names, 3):
        yield {name: (axis,) for name, axis in zip(three, "abc", strict=True)}


def legal(variant):
    op = variant.op()

    def run(*operands):
        return op.primitive.bind(*operands, **op.params)

    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(a.shape, dtype=np.float32) for a in op.operands]
    program = trace(run, tuple(operands))
    ruled = with_rules(program)
    (traced,) = [op for op in program.ops if op.primitive == "conv_general_dilated"]
    found = []
    for label in labels(list(op.rule.shardable)):
        try:
            found.append(Labelling(ruled, MESH, {traced.id: label}))
        except LabellingError:
            continue
    return run, operands, program, found


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            v, id=v.name, marks=() if any(q in v.name for q in QUICK) else pytest.mark.slow
        )
        for v in VARIANTS
    ],
)
def test_every_legal_label_computes_the_whole(variant) -> None:
    run, operands, program, labellings = legal(variant)
    assert len(labellings) > 1
    device_mesh = Mesh(
        np.array(jax.devices()[:8]).reshape(2, 2, 2), MESH.names, axis_types=(AxisType.Auto,) * 3
    )
    expected = np.asarray(run(*operands))
    for labelling in labellings:
        plan = make_plan(labelling, find_roles(labelling.ruled), strategy="by hand")
        (actual,) = lower_plan(program, plan, device_mesh)(*operands)
        error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
        assert error < 1e-5, dict(labelling.labels)


def test_the_partitioner_is_left_only_windows_that_cross_borders() -> None:
    """All others are islands: nothing that the partitioner decides elsewhere can cut them."""

    def is_island(name: str, *factors: str) -> bool:
        (variant,) = [v for v in VARIANTS if v.name.endswith(name)]
        *_, labellings = legal(variant)
        (one,) = [
            labelling
            for labelling in labellings
            if any(
                label == {f: (axis,) for f, axis in zip(factors, "abc", strict=False)}
                for label in labelling.labels.values()
            )
        ]
        plan = make_plan(one, find_roles(one.ruled), strategy="by hand")
        return set(plan.reductions) == set(one.labels)

    assert is_island("(patches)", "i", "o")  # batch and output channels
    assert is_island("(patches)", "j", "o")  # whole rows of patches
    assert is_island("(3x3)", "i", "l")  # a sum over input channels
    assert not is_island("(3x3)", "i", "j")
