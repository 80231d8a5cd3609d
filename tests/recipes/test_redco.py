"""The tensor-parallel layout that Redco derives from names, from the data flow alone.

Tan et al. 2023, section 3.2: projections into heads and into the wide layer of an MLP by column,
projections out of them by row, tables by vocabulary (or by features, where it does not divide),
what is added behind a row whole and behind a column cut.
"""

import re

import jax
import optax
import pytest

from autoshard import models

COLUMN, ROW, WHOLE = "column", "row", "whole"
VOCABULARY, FEATURES = "vocabulary", "features"

LAYOUTS = {
    "gpt2-medium": {
        r"wte/embedding": FEATURES,  # 50257 is not divisible by 8
        r"attn/(query|key|value)/kernel": COLUMN,
        r"attn/(query|key|value)/bias": COLUMN,
        r"attn/out/kernel": ROW,
        r"attn/out/bias": WHOLE,
        r"mlp_fc/(kernel|bias)": COLUMN,
        r"mlp_proj/kernel": ROW,
        r"mlp_proj/bias": WHOLE,
        r"ln_\w+/(scale|bias)": WHOLE,
    },
    "llama-3-8b": {
        r"embed_tokens/embedding": VOCABULARY,
        r"attention/(query|key|value)/kernel": COLUMN,
        r"attention/out/kernel": ROW,
        r"mlp/(gate|up)/kernel": COLUMN,
        r"mlp/down/kernel": ROW,
        r"norm/scale": WHOLE,
        r"lm_head/kernel": COLUMN,
    },
    "t5-large": {
        r"(attention|attn)\w*/(query|key|value)/kernel": COLUMN,
        r"(attention|attn)\w*/out/kernel": ROW,
        r"(mlp|ff)\w*/(wi|up|in)\w*/kernel": COLUMN,
        r"(mlp|ff)\w*/(wo|down|out)\w*/kernel": ROW,
    },
}


def kind_of(leaf, scanned: bool) -> str:
    """How a parameter is cut, by where the axis stands."""
    dims = leaf.spec.dims[1:] if scanned else leaf.spec.dims
    cut = [d for d, axes in enumerate(dims) if axes]
    if not cut:
        return WHOLE
    if re.search("embedding", leaf.path):
        return VOCABULARY if cut == [0] else FEATURES
    return ROW if cut == [0] and len(dims) > 1 and not leaf.path.endswith("bias") else COLUMN


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(plan_of, name):
    spec = models.get(name, scan_layers=False, layers=2)
    training = models.make_training(spec, optax.adamw(1e-3))
    state = jax.eval_shape(training.create_state, jax.random.key(0))
    plan = plan_of(training.train_step, (state, spec.example_batch(8, 128)), "tensor", "x=8")
    for pattern, wanted in LAYOUTS[name].items():
        found = {
            leaf.path: kind_of(leaf, scanned=False)
            for leaf in plan.state
            if "params/" in leaf.path and re.search(pattern + "$", leaf.path)
        }
        assert found, pattern
        assert set(found.values()) == {wanted}, found
    # The optimizer's state mirrors its parameter.
    specs = {
        leaf.path.partition("params/")[2]: leaf.spec
        for leaf in plan.state
        if "params/" in leaf.path
    }
    for leaf in plan.state:
        for moment in ("/mu/", "/nu/"):
            if moment in leaf.path:
                assert leaf.spec == specs[leaf.path.partition(moment)[2]], leaf.path
