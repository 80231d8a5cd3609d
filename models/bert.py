"""BERT in pre-training: an encoder with heads for masked tokens and for the next sentence.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(2018), section 3; layer norms stand behind each residual connection.
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
    require_rate,
    require_remat,
)
from autoshard.models.errors import SequenceTooLongError


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """Shape and numerics of a BERT. The defaults are BERT base, uncased.

    Attributes:
        vocab_size: Tokens in the vocabulary.
        max_positions: Longest sequence, in tokens.
        segments: Sentences that a sequence may hold.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP.
        layers: Number of blocks.
        heads: Attention heads; must divide `hidden`.
        dropout: Rate after embeddings, attention weights, and each residual branch.
        norm_epsilon: Added to the variance in layer norm.
        scan_layers: Roll the blocks into one `nn.scan`.
        remat: What the backward pass recomputes.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    vocab_size: int = 30522
    max_positions: int = 512
    segments: int = 2
    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    norm_epsilon: float = 1e-12
    scan_layers: bool = False
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self,
            *("vocab_size", "max_positions", "segments", "hidden", "intermediate"),
            *("layers", "heads"),
        )
        require_divisible(self, "hidden", "heads")
        require_rate(self, "dropout")
        require_remat(self.remat)
        normalise_dtypes(self)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class Bert(nn.Module):
    """BERT with both heads of its pre-training.

    Attributes:
        config: Shape and numerics.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array,
        mask: jax.Array,
        masked_positions: jax.Array,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """Restores masked tokens, and tells whether the second sentence follows the first.

        Args:
            tokens: Token ids, integer `[batch, length]`.
            segments: Which sentence each token belongs to, integer `[batch, length]`.
            mask: 0 where the text is padded, `[batch, length]`.
            masked_positions: Positions to restore, integer `[batch, masked]`.
            deterministic: Switches dropout off; otherwise pass an rng named "dropout".

        Returns:
            Logits of the restored tokens `[batch, masked, vocab_size]`, and of the second sentence
            being the next or a random one `[batch, 2]`, both in the config's `dtype`.

        Raises:
            SequenceTooLongError: `length` exceeds `max_positions`.
        """
        config = self.config
        length = tokens.shape[-1]
        if length > config.max_positions:
            raise SequenceTooLongError(length, config.max_positions)
        words = _embedding(config, config.vocab_size, "word_embeddings")
        x = words(tokens) + _embedding(config, config.segments, "segment_embeddings")(segments)
        positions = _embedding(config, config.max_positions, "position_embeddings")
        x = _layer_norm(config, "embeddings_norm")(x + positions(jnp.arange(length)[None, :]))
        x = apply_blocks(
            BertBlock,
            nn.Dropout(config.dropout, deterministic=deterministic)(x),
            nn.make_attention_mask(mask > 0, mask > 0, dtype=jnp.bool_),
            args=(config, deterministic),
            layers=config.layers,
            scan=config.scan_layers,
            remat=config.remat,
            name="layers",
        )
        pooled = nn.tanh(_dense(config, config.hidden, "pooler")(x[:, 0]))
        order = _dense(config, 2, "next_sentence")(pooled)

        x = jnp.take_along_axis(x, masked_positions[..., None], axis=1)
        x = nn.gelu(_dense(config, config.hidden, "transform")(x), approximate=False)
        x = _layer_norm(config, "transform_norm")(x)
        bias = self.param(
            "token_bias", nn.initializers.zeros, (config.vocab_size,), config.param_dtype
        )
        return words.attend(x) + bias.astype(config.dtype)[None, None, :], order


class BertBlock(nn.Module):
    """Self-attention and an MLP, a residual connection and a layer norm behind each."""

    config: BertConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        y = SelfAttention(config, self.deterministic, name="attention")(x, mask)
        x = _layer_norm(config, "attention_norm")(x + dropout(y))
        y = nn.gelu(_dense(config, config.intermediate, "up")(x), approximate=False)
        y = _dense(config, config.hidden, "down")(y)
        return _layer_norm(config, "mlp_norm")(x + dropout(y)), None


class SelfAttention(nn.Module):
    """Multi-head attention in which a position sees all that is not padding."""

    config: BertConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape.

        Args:
            x: Activations.
            mask: True where a query sees a key, `[batch, 1, length, length]`.
        """
        config = self.config
        heads = (config.heads, config.head_size)
        query, key, value = (_dense(config, heads, name)(x) for name in ("query", "key", "value"))
        use_dropout = config.dropout > 0 and not self.deterministic
        y = nn.dot_product_attention(
            query,
            key,
            value,
            mask=mask,
            dropout_rng=self.make_rng("dropout") if use_dropout else None,
            dropout_rate=config.dropout,
            broadcast_dropout=False,
            deterministic=self.deterministic,
            force_fp32_for_softmax=True,
        )
        return _dense(config, config.hidden, "out", axis=(-2, -1))(y)


def _embedding(config: BertConfig, rows: int, name: str) -> nn.Embed:
    return nn.Embed(
        rows,
        config.hidden,
        embedding_init=nn.initializers.truncated_normal(0.02),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _layer_norm(config: BertConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, param_dtype=config.param_dtype, name=name
    )


def _dense(
    config: BertConfig,
    features: int | tuple[int, ...],
    name: str,
    *,
    axis: int | tuple[int, ...] = -1,
) -> nn.DenseGeneral:
    return nn.DenseGeneral(
        features,
        axis=axis,
        kernel_init=nn.initializers.truncated_normal(0.02),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
