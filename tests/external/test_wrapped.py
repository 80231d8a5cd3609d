"""Hugging Face models as planned objects and classes: weights born sharded, calls planned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard

transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.external, pytest.mark.slow]

IDS = np.random.default_rng(0).integers(0, 96, (16, 16)).astype(np.int32)


def llama() -> tuple[type, Any]:
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    return transformers.FlaxLlamaForCausalLM, config


@pytest.mark.parametrize(
    ("mesh", "strategy"), [("data=8", "zero3"), ("data=2,model=4", "zero3+tensor")]
)
def test_class(mesh: str, strategy: str) -> None:
    cls, config = llama()
    plain = cls(config, seed=0)
    planned = autoshard.parallelize(cls, mesh=mesh, strategy=strategy)(config, seed=0)
    assert type(planned).__name__ == cls.__name__ and isinstance(planned, cls)
    kernels = [leaf for leaf in jax.tree.leaves(planned.params) if leaf.ndim == 2]
    assert all(not leaf.sharding.is_fully_replicated for leaf in kernels)
    got, expected = (np.asarray(m(IDS, train=False).logits) for m in (planned, plain))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)

    def loss(model: Any, params: Any) -> jax.Array:
        return jnp.mean(model(IDS, params=params, train=True).logits ** 2)

    grads = [jax.jit(jax.grad(lambda p, m=m: loss(m, p)))(plain.params) for m in (planned, plain)]
    left, right = ([np.asarray(g) for g in jax.tree.leaves(tree)] for tree in grads)
    scale = max(float(np.abs(g).max()) for g in right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-5 * scale)


def test_instance_keeps_its_weights_where_the_plan_wants_them() -> None:
    cls, config = llama()
    model = cls(config, seed=0)
    planned = autoshard.wrap(model, mesh="data=2,model=4", strategy="zero3+tensor")
    assert planned.config is model.config and isinstance(planned, cls)
    planned(IDS)
    leaves = jax.tree.leaves(planned.params)
    plan = planned.parallelized.last_plan
    for leaf, where in zip(leaves, plan.state, strict=True):
        assert leaf.sharding.spec == where.spec.partition_spec()
    planned(IDS)
    again = jax.tree.leaves(planned.params)
    assert all(a is b for a, b in zip(leaves, again, strict=True))
