"""Redco's layout on the parameter trees of transformers: names that no rule of ours has seen."""

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard.plan import parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(
        find_spec("transformers") is None, reason="needs the extra [external]: transformers"
    ),
]

COLUMN = r"(q_proj|k_proj|v_proj|query|key|value|fc1|c_fc|up_proj|gate_proj|wi_?\d?)/kernel$"
ROW = r"(out_proj|o_proj|fc2|down_proj|wo)/kernel$"


def opt() -> Any:
    transformers = import_module("transformers")
    config = transformers.OPTConfig(
        vocab_size=50257,
        hidden_size=64,
        word_embed_proj_dim=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        ffn_dim=128,
        max_position_embeddings=64,
    )
    return transformers.FlaxOPTForCausalLM(config, _do_init=False)


def bart() -> Any:
    transformers = import_module("transformers")
    config = transformers.BartConfig(
        vocab_size=50257,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
    )
    return transformers.FlaxBartForConditionalGeneration(config, _do_init=False)


@pytest.mark.parametrize("make", [opt, bart], ids=lambda make: make.__name__)
def test_layout(make):
    model = make()
    shapes = jax.eval_shape(lambda key: model.init_weights(key, (1, 8)), jax.random.key(0))
    decoder = {"decoder_input_ids": 0} if make is bart else {}

    def step(params, batch):
        def loss(params):
            inputs = {name: batch["ids"] for name in decoder}
            logits = model(batch["ids"], **inputs, params=params).logits
            picked = jnp.take_along_axis(
                jax.nn.log_softmax(logits), batch["ids"][..., None], axis=-1
            )
            return -jnp.mean(picked)

        value, gradients = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

    batch = {"ids": jax.ShapeDtypeStruct((4, 16), jnp.int32)}
    plan = plan_by_recipe(trace(step, (shapes, batch)), parse_mesh("x=8", 8), "tensor")
    kernels = [leaf for leaf in plan.state if leaf.path.endswith("kernel")]
    assert kernels
    for leaf in kernels:
        cut = [d for d, axes in enumerate(leaf.spec.dims) if axes]
        if re.search(COLUMN, leaf.path):
            assert cut == [1], leaf.path
        elif re.search(ROW, leaf.path):
            assert cut == [0], leaf.path
    tables = [leaf for leaf in plan.state if leaf.shape[:1] == (50257,) and len(leaf.shape) == 2]
    assert tables
    assert all(str(leaf.spec) == "P(-, x)" for leaf in tables)  # 8 does not divide 50257
    norms = [leaf for leaf in plan.state if "norm" in leaf.path]
    assert all(leaf.spec.is_replicated for leaf in norms)
