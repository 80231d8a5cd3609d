"""Llama: a decoder with rotary positions, grouped-query attention, RMS norm and a SwiGLU MLP.

Touvron et al., "Llama 2: Open Foundation and Fine-Tuned Chat Models" (2023), section 2.2, and
"The Llama 3 Herd of Models" (2024), section 3.2.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from autoshard.models._blocks import (
    Remat,
    apply_blocks,
    normalise_dtypes,
    require_divisible,
    require_positive,
    require_remat,
)
from autoshard.models._rope import RopeScaling, apply_rope, rope_table
from autoshard.models.errors import ModelConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Shape and numerics of a Llama. The defaults are Llama 2 7B.

    Attributes:
        vocab_size: Tokens in the vocabulary.
        max_positions: Sequence length of the published model, in tokens. Positions are computed,
            so longer sequences run too.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP.
        layers: Number of blocks.
        heads: Query heads; must divide `hidden` into even widths.
        kv_heads: Key and value heads; must divide `heads`.
        rope_base: Base of the rotary frequencies.
        rope_scaling: Stretches slow rotations (Llama 3.1 and later).
        norm_epsilon: Added to the mean square in RMS norm.
        tie_head: Use the token embedding as output head.
        scan_layers: Roll the blocks into one `nn.scan`.
        remat: What the backward pass recomputes.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    vocab_size: int = 32000
    max_positions: int = 4096
    hidden: int = 4096
    intermediate: int = 11008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tie_head: bool = False
    scan_layers: bool = True
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self,
            *("vocab_size", "max_positions", "hidden", "intermediate"),
            *("layers", "heads", "kv_heads"),
        )
        require_divisible(self, "heads", "kv_heads")
        require_remat(self.remat)
        require_divisible(self, "hidden", "heads")
        if self.head_size % 2:
            raise ModelConfigError(
                f"head_size={self.head_size} must be even: RoPE rotates pairs of dimensions."
            )
        normalise_dtypes(self)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class LlamaBlock(nn.Module):
    """Grouped-query attention and a gated MLP, each behind a norm and a residual connection."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        y = rms_norm(config, "input_norm")(x)
        x = x + GroupedQueryAttention(config, name="attention")(y, table)
        y = rms_norm(config, "post_attention_norm")(x)
        return x + SwiGLU(config, name="mlp")(y), None


class GroupedQueryAttention(nn.Module):
    """Causal attention in which `heads / kv_heads` query heads share one key and value head.

    Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head
    Checkpoints" (2023).
    """

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape.

        Args:
            x: Activations.
            table: `rope_table` of the sequence's positions.
        """
        config = self.config
        query = _dense(config, (config.heads, config.head_size), name="query")(x)
        key = _dense(config, (config.kv_heads, config.head_size), name="key")(x)
        value = _dense(config, (config.kv_heads, config.head_size), name="value")(x)
        y = jax.nn.dot_product_attention(
            apply_rope(query, table), apply_rope(key, table), value, is_causal=True
        )
        return _dense(config, config.hidden, name="out", axis=(-2, -1))(y)


class SwiGLU(nn.Module):
    """Gated MLP: `down(silu(gate(x)) * up(x))`.

    Shazeer, "GLU Variants Improve Transformer" (2020).
    """

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape."""
        config = self.config
        gate = _dense(config, config.intermediate, name="gate")(x)
        up = _dense(config, config.intermediate, name="up")(x)
        return _dense(config, config.hidden, name="down")(nn.silu(gate) * up)


class Llama(nn.Module):
    """Llama language model.

    Attributes:
        config: Shape and numerics.
        block: Class of its blocks.
    """

    config: LlamaConfig
    block: ClassVar[type[nn.Module]] = LlamaBlock

    @nn.compact
    def __call__(self, tokens: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Predicts the token after each position.

        Args:
            tokens: Token ids, integer `[batch, length]`.
            deterministic: Accepted so that all language models are called alike; Llama has no
                dropout.

        Returns:
            Logits `[batch, length, vocab_size]` in the config's `dtype`.
        """
        del deterministic
        config = self.config
        embed = nn.Embed(
            config.vocab_size,
            config.hidden,
            embedding_init=nn.initializers.normal(0.02),
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="embed_tokens",
        )
        table = rope_table(
            jnp.arange(tokens.shape[-1]),
            config.head_size,
            base=config.rope_base,
            scaling=config.rope_scaling,
        )
        x = apply_blocks(
            self.block,
            embed(tokens),
            table,
            args=(config,),
            layers=config.layers,
            scan=config.scan_layers,
            remat=config.remat,
            name="layers",
        )
        x = rms_norm(config, "norm")(x)
        if config.tie_head:
            return embed.attend(x)
        return _dense(config, config.vocab_size, name="lm_head")(x)


def rms_norm(config: LlamaConfig, name: str) -> nn.RMSNorm:
    """The norm in front of each branch of a block."""
    return nn.RMSNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, param_dtype=config.param_dtype, name=name
    )


def _dense(
    config: LlamaConfig,
    features: int | tuple[int, ...],
    *,
    name: str,
    axis: int | tuple[int, ...] = -1,
) -> nn.DenseGeneral:
    return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=False,
        kernel_init=nn.initializers.normal(0.02),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
