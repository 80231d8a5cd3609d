"""GPT-2: a decoder with learned positions, pre-layer-norm blocks and a tied output head.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

from dataclasses import dataclass

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
from autoshard.models.errors import ModelConfigError, SequenceTooLongError


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Config:
    """Shape and numerics of a GPT-2. The defaults are the 124 M-parameter model.

    Attributes:
        vocab_size: Tokens in the vocabulary.
        max_positions: Longest sequence, in tokens.
        hidden: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads; must divide `hidden`.
        mlp_ratio: Width of the MLP over `hidden`.
        dropout: Rate after embeddings, attention weights, and each residual branch.
        norm_epsilon: Added to the variance in layer norm.
        tie_head: Use the token embedding as output head, as GPT-2 does.
        scan_layers: Roll the blocks into one `nn.scan`.
        remat: What the backward pass recomputes.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    vocab_size: int = 50257
    max_positions: int = 1024
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    dropout: float = 0.1
    norm_epsilon: float = 1e-5
    tie_head: bool = True
    scan_layers: bool = False
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self, "vocab_size", "max_positions", "hidden", "layers", "heads", "mlp_ratio"
        )
        require_divisible(self, "hidden", "heads")
        require_remat(self.remat)
        if not 0 <= self.dropout < 1:
            raise ModelConfigError(f"dropout={self.dropout} must lie in [0, 1).")
        normalise_dtypes(self)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class GPT2(nn.Module):
    """GPT-2 language model.

    Attributes:
        config: Shape and numerics.
    """

    config: GPT2Config

    @nn.compact
    def __call__(self, tokens: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Predicts the token after each position.

        Args:
            tokens: Token ids, integer `[batch, length]`.
            deterministic: Switches dropout off; otherwise pass an rng named "dropout".

        Returns:
            Logits `[batch, length, vocab_size]` in the config's `dtype`.

        Raises:
            SequenceTooLongError: `length` exceeds `max_positions`.
        """
        config = self.config
        length = tokens.shape[-1]
        if length > config.max_positions:
            raise SequenceTooLongError(length, config.max_positions)

        wte = _embedding(config, config.vocab_size, name="wte", stddev=0.02)
        wpe = _embedding(config, config.max_positions, name="wpe", stddev=0.01)
        x = wte(tokens) + wpe(jnp.arange(length)[None, :])
        x = nn.Dropout(config.dropout, deterministic=deterministic)(x)
        x = apply_blocks(
            GPT2Block,
            x,
            None,
            args=(config, deterministic),
            layers=config.layers,
            scan=config.scan_layers,
            remat=config.remat,
            name="h",
        )
        x = _layer_norm(config, "ln_f")(x)
        if config.tie_head:
            return wte.attend(x)
        return nn.Dense(
            config.vocab_size,
            use_bias=False,
            kernel_init=nn.initializers.normal(0.02),
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="lm_head",
        )(x)


class GPT2Block(nn.Module):
    """Causal self-attention and an MLP, each behind a layer norm and a residual connection."""

    config: GPT2Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        residual_dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        y = _layer_norm(config, "ln_1")(x)
        x = x + residual_dropout(CausalSelfAttention(config, self.deterministic, name="attn")(y))
        y = _layer_norm(config, "ln_2")(x)
        y = _dense(config, config.mlp_ratio * config.hidden, name="mlp_fc")(y)
        y = nn.gelu(y, approximate=True)
        y = _dense(config, config.hidden, name="mlp_proj", residual=True)(y)
        return x + residual_dropout(y), None


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before."""

    config: GPT2Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape."""
        config = self.config
        heads = (config.heads, config.head_size)
        query = _dense(config, heads, name="query")(x)
        key = _dense(config, heads, name="key")(x)
        value = _dense(config, heads, name="value")(x)
        use_dropout = config.dropout > 0 and not self.deterministic
        y = nn.dot_product_attention(
            query,
            key,
            value,
            mask=nn.make_causal_mask(jnp.ones((1, x.shape[1])), dtype=jnp.bool_),
            dropout_rng=self.make_rng("dropout") if use_dropout else None,
            dropout_rate=config.dropout,
            broadcast_dropout=False,
            deterministic=self.deterministic,
            force_fp32_for_softmax=True,
        )
        return _dense(config, config.hidden, name="out", axis=(-2, -1), residual=True)(y)


def _embedding(config: GPT2Config, rows: int, *, name: str, stddev: float) -> nn.Embed:
    return nn.Embed(
        rows,
        config.hidden,
        embedding_init=nn.initializers.normal(stddev),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _layer_norm(config: GPT2Config, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, param_dtype=config.param_dtype, name=name
    )


def _dense(
    config: GPT2Config,
    features: int | tuple[int, ...],
    *,
    name: str,
    axis: int | tuple[int, ...] = -1,
    residual: bool = False,
) -> nn.DenseGeneral:
    # The paper scales what adds to the residual stream by 1/sqrt(number of residual branches), so
    # that the stream's variance does not grow with depth.
    stddev = 0.02 / (2 * config.layers) ** 0.5 if residual else 0.02
    return nn.DenseGeneral(
        features,
        axis=axis,
        kernel_init=nn.initializers.normal(stddev),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
