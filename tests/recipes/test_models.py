"""Every recipe on every mesh computes what one device computes."""

import itertools

import numpy as np
import pytest

MODELS = ("gpt", "gpt-scan", "llama", "llama-scan-remat", "resnet")
RECIPES = ("dp", "zero3", "tensor", "zero3+tensor")
MESHES = ("8", "2x4", "4x2", "2x2x2")

QUICK = {
    # (8): shared with the tests of what is compiled.
    ("gpt", "dp", "8"),
    ("gpt", "tensor", "8"),
    ("gpt", "zero3", "8"),
    ("gpt-scan", "dp", "8"),
    ("gpt-scan", "zero3+tensor", "2x2x2"),
    ("llama", "zero3+tensor", "2x4"),
    ("llama-scan-remat", "zero3", "2x4"),
    ("llama-scan-remat", "tensor", "4x2"),
    ("resnet", "zero3+tensor", "4x2"),
}
"""Each model, recipe and mesh at least once."""

CASES = [
    pytest.param(*combination, marks=() if combination in QUICK else pytest.mark.slow)
    for combination in itertools.product(MODELS, RECIPES, MESHES)
    if not (combination[1] == "zero3+tensor" and combination[2] == "8")
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
    assert not planned.plan.notes or strategy != "dp"


def test_the_quick_cases_cover_everything():
    for column, names in enumerate((MODELS, RECIPES, MESHES)):
        assert {combination[column] for combination in QUICK} == set(names)
