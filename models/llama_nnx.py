"""Llama in Flax NNX: the network of `autoshard.models.llama`, of the same configuration."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from autoshard.models._blocks import REMAT_POLICIES
from autoshard.models._rope import apply_rope, rope_table
from autoshard.models.llama import LlamaConfig

_INIT = nnx.initializers.normal(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaNNXConfig(LlamaConfig):
    """Shape and numerics of a Llama in NNX, field by field those of `LlamaConfig`."""


class LlamaNNX(nnx.Module):
    """Llama language model.

    Args:
        config: Shape and numerics.
        rngs: Keys of the parameters.
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_tokens = nnx.Embed(
            config.vocab_size,
            config.hidden,
            embedding_init=_INIT,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        if config.scan_layers:

            @nnx.split_rngs(splits=config.layers)
            @nnx.vmap
            def create(rngs: nnx.Rngs) -> Block:
                return Block(config, rngs=rngs)

            self.layers = create(rngs)
        else:
            self.layers = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = _rms_norm(config, rngs)
        if config.tie_head:
            self.lm_head = None
        else:
            self.lm_head = _linear(config, config.hidden, config.vocab_size, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Predicts the token after each position.

        Args:
            tokens: Token ids, integer `[batch, length]`.

        Returns:
            Logits `[batch, length, vocab_size]` in the config's `dtype`.
        """
        config = self.config
        table = rope_table(
            jnp.arange(tokens.shape[-1]),
            config.head_size,
            base=config.rope_base,
            scaling=config.rope_scaling,
        )
        x = self.embed_tokens(tokens)
        run = _run_block
        if config.remat != "none":
            # Inside a scan the loop already keeps XLA from merging the recomputation away.
            run = nnx.remat(
                run, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers
            )
        if isinstance(self.layers, nnx.List):
            for layer in self.layers:
                x = run(layer, x, table)
        else:
            scan = nnx.scan(run, in_axes=(0, nnx.Carry, None), out_axes=nnx.Carry)
            x = scan(self.layers, x, table)
        x = self.norm(x)
        return self.embed_tokens.attend(x) if self.lm_head is None else self.lm_head(x)


class Block(nnx.Module):
    """Grouped-query attention and a gated MLP, each behind a norm and a residual connection."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.input_norm = _rms_norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.post_attention_norm = _rms_norm(config, rngs)
        self.mlp = SwiGLU(config, rngs=rngs)

    def __call__(self, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape.

        Args:
            x: Activations.
            table: `rope_table` of the sequence's positions.
        """
        x = x + self.attention(self.input_norm(x), table)
        return x + self.mlp(self.post_attention_norm(x))


class Attention(nnx.Module):
    """Causal attention in which `heads / kv_heads` query heads share one key and value head."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        heads = (config.heads, config.head_size)
        kv_heads = (config.kv_heads, config.head_size)
        self.query = _linear(config, config.hidden, heads, rngs)
        self.key = _linear(config, config.hidden, kv_heads, rngs)
        self.value = _linear(config, config.hidden, kv_heads, rngs)
        self.out = _linear(config, heads, config.hidden, rngs)

    def __call__(self, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        query, key = (apply_rope(project(x), table) for project in (self.query, self.key))
        return self.out(jax.nn.dot_product_attention(query, key, self.value(x), is_causal=True))


class SwiGLU(nnx.Module):
    """Gated MLP: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.gate = _linear(config, config.hidden, config.intermediate, rngs)
        self.up = _linear(config, config.hidden, config.intermediate, rngs)
        self.down = _linear(config, config.intermediate, config.hidden, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden]` to the same shape."""
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


def _run_block(block: Block, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    return block(x, table)


def _rms_norm(config: LlamaConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        config.hidden,
        epsilon=config.norm_epsilon,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _linear(
    config: LlamaConfig,
    inputs: int | tuple[int, ...],
    outputs: int | tuple[int, ...],
    rngs: nnx.Rngs,
) -> nnx.LinearGeneral:
    return nnx.LinearGeneral(
        inputs,
        outputs,
        axis=-1 if isinstance(inputs, int) else tuple(range(-len(inputs), 0)),
        use_bias=False,
        kernel_init=_INIT,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )
