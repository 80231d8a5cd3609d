"""Models of `tunix`: NNX, annotated with mesh axes named fsdp and tp, which no mesh here has."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [
    pytest.mark.external,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("tunix") is None, reason="needs the extra [external]: google-tunix"
    ),
    # Of tunix: names of jax and flax that have new ones.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def integers(bound: int, *shape: int) -> Any:
    return np.random.default_rng(1).integers(0, bound, shape, dtype=np.int32)


VOCABULARY = 128
TOKENS = integers(VOCABULARY, 8, 16)


def build(create: Any) -> Case:
    """A case of the module that `create(rngs)` makes, split into plain trees once."""
    with nnx.use_eager_sharding(False):  # annotations need no mesh then
        graph, params, rest = nnx.split(create(nnx.Rngs(0)), nnx.Param, ...)
    rest = nnx.to_pure_dict(rest)

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        del key
        with nnx.use_eager_sharding(False):
            model: Any = nnx.merge(graph, nnx.State(params), nnx.State(collections))
        tokens = batch["tokens"]
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        mask = jnp.broadcast_to(
            jnp.tril(jnp.ones((length, length), bool)), (tokens.shape[0], length, length)
        )
        scores, _ = model(tokens, positions, None, mask)
        nll = -jax.nn.log_softmax(scores[:, :-1].astype(jnp.float32))
        picked = jnp.take_along_axis(nll, tokens[:, 1:, None], axis=-1)
        return jnp.mean(picked), collections

    return dict(
        loss=loss,
        params=nnx.to_pure_dict(params),
        batch={"tokens": TOKENS},
        collections=rest,
    )


SIZES: dict[str, Any] = {
    "num_layers": 2,
    "embed_dim": 64,
    "hidden_dim": 128,
    "num_heads": 8,
    "head_dim": 8,
    "num_kv_heads": 4,
}


def llama3() -> Case:
    model = import_module("tunix.models.llama3.model")
    config = model.ModelConfig(vocab_size=VOCABULARY, rope_theta=10_000, norm_eps=1e-5, **SIZES)
    return build(lambda rngs: model.Llama3(config, rngs=rngs))


def qwen3(**options: Any) -> Case:
    model = import_module("tunix.models.qwen3.model")
    config = model.ModelConfig(
        vocab_size=VOCABULARY, rope_theta=10_000, norm_eps=1e-6, **SIZES, **options
    )
    return build(lambda rngs: model.Qwen3(config, rngs=rngs))


def gemma3() -> Case:
    model = import_module("tunix.models.gemma3.model")
    sizes = SIZES | {"num_layers": 6}  # one round of local and global layers
    config = model.ModelConfig(
        num_embed=VOCABULARY, sliding_window_size=4, param_dtype=jnp.float32, **sizes
    )
    return build(lambda rngs: model.Gemma3(config, rngs=rngs))


def qwen3_experts() -> Case:
    return qwen3(num_experts=8, num_experts_per_tok=2)


def qwen2() -> Case:
    model = import_module("tunix.models.qwen2.model")
    config = model.ModelConfig(vocab_size=VOCABULARY, rope_theta=10_000, norm_eps=1e-6, **SIZES)
    return build(lambda rngs: model.Qwen2(config, rngs=rngs))


LISTED = [llama3, qwen3, gemma3]
MORE = [qwen3_experts, qwen2]


@pytest.mark.parametrize("case", LISTED + MORE, ids=lambda case: case.__name__)
def test_models(case, same_on_a_mesh):
    same_on_a_mesh(**case())
