"""Every recipe on every mesh computes what one device computes."""

import itertools

import numpy as np
import pytest

CORE = ("gpt", "llama-scan-remat", "resnet", "moe", "t5", "dlrm")
OTHERS = ("gpt-scan", "llama", "llama-nnx", "bert", "vit", "unet")
SINGLE = (
    "dp",
    "expert",
    "megatron",
    "replicate",
    "sequence",
    "table",
    "tensor",
    "zero1",
    "zero2",
    "zero3",
)
PAIRS = (
    "dp+expert",
    "dp+sequence",
    "zero1+megatron",
    "zero2+tensor",
    "zero3+table",
    "zero3+tensor",
)
TRIPLES = ("dp+expert+tensor", "zero2+sequence+tensor", "zero3+sequence+megatron")
MESHES = ("8", "2x4", "4x2", "2x2x2")

QUICK = {
    # (8): shared with the tests of what is compiled.
    ("gpt", "dp", "8"),
    ("gpt", "tensor", "8"),
    ("gpt", "zero3", "8"),
    ("gpt", "zero1", "8"),
    ("gpt", "megatron", "8"),
    ("gpt", "sequence", "8"),
    ("gpt-scan", "dp", "8"),
    ("gpt-scan", "zero3+tensor", "2x2x2"),
    ("llama", "zero3+tensor", "2x4"),
    ("llama-scan-remat", "zero2+tensor", "2x4"),
    ("llama-scan-remat", "tensor", "4x2"),
    ("moe", "expert", "8"),
    ("moe", "dp+expert", "2x4"),
    ("resnet", "zero2", "2x4"),
    ("resnet", "zero3+sequence+megatron", "2x2x2"),
    ("t5", "zero1+megatron", "2x4"),
    ("dlrm", "table", "8"),
    ("vit", "dp+sequence", "4x2"),
    ("dlrm", "replicate", "8"),
}
"""Each recipe and mesh at least once, and most models."""

COMBINATIONS = {
    *itertools.product(CORE, SINGLE, ("8", "2x4", "2x2x2")),
    *itertools.product(CORE, PAIRS, ("2x4",)),
    *itertools.product(CORE, TRIPLES, ("2x2x2",)),
    *itertools.product(OTHERS, (*PAIRS, "megatron", "zero1"), ("2x4",)),
    *QUICK,
}
IMPOSSIBLE = {
    # Six numbers and six tables for each example: no axis of 4 or 8 divides them.
    *(c for c in COMBINATIONS if c[0] == "dlrm" and "sequence" in c[1]),
}
CASES = [
    pytest.param(*combination, marks=() if combination in QUICK else pytest.mark.slow)
    for combination in sorted(COMBINATIONS - IMPOSSIBLE)
]


@pytest.mark.parametrize(("model", "strategy", "mesh"), CASES)
def test_a_train_step_equals_that_of_one_device(case, reference, tree_error, model, strategy, mesh):
    one = reference(model)
    planned = case(model, strategy, mesh)
    after, metrics = planned(one.state, one.batch)
    np.testing.assert_allclose(metrics["loss"], one.metrics["loss"], rtol=1e-6)
    # AdamW's first moment starts at zero: it is a tenth of the gradient.
    assert tree_error(after.opt_state[0].mu, one.after.opt_state[0].mu) < 5e-5
    if one.after.collections:
        assert tree_error(after.collections, one.after.collections) < 5e-5
    assert int(after.step) == 1
    if strategy in ("dp", "zero1", "zero2", "zero3"):
        # Not in it: what is smaller than the mesh, such as the bias of a single score.
        assert all(note.startswith("stored whole") for note in planned.plan.notes)


def test_the_quick_cases_cover_every_recipe_and_mesh():
    assert {term for case in QUICK for term in case[1].split("+")} == set(SINGLE)
    assert {case[2] for case in QUICK} == set(MESHES)
