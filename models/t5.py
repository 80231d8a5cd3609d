"""T5: an encoder-decoder whose attention knows positions by their distance alone.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(2020), section 2.1.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from autoshard.models._blocks import (
    Remat,
    apply_blocks,
    normalise_dtypes,
    require_positive,
    require_rate,
    require_remat,
)
from autoshard.models.errors import ModelConfigError

# Finite, so that an input that is nothing but padding gives equal weights and not NaN.
_MASKED = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """Shape and numerics of a T5. The defaults are T5 base.

    Attributes:
        vocab_size: Rows of the embedding: 32,000 sentence pieces, 100 sentinels, and padding.
        input_length: Tokens that the encoder reads in an example batch. Positions are relative, so
            longer texts run too.
        target_length: Tokens that the decoder writes there.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP.
        layers: Blocks of the encoder.
        decoder_layers: Blocks of the decoder.
        heads: Attention heads.
        head_size: Width of one; their product need not be `hidden`.
        buckets: Distances that the attention tells apart; a multiple of 4.
        max_distance: Distance in tokens from which on all are alike.
        gated: Use the gated MLP of T5 1.1 instead of a ReLU.
        tie_head: Use the embedding as output head, scaled down, as T5 1.0 does.
        dropout: Rate after embeddings, attention weights, inside MLPs, after each residual branch
            and at the end of both stacks.
        norm_epsilon: Added to the mean square in RMS norm.
        scan_layers: Roll each stack into one `nn.scan`.
        remat: What the backward pass recomputes.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    vocab_size: int = 32128
    input_length: int = 512
    target_length: int = 128
    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    decoder_layers: int = 12
    heads: int = 12
    head_size: int = 64
    buckets: int = 32
    max_distance: int = 128
    gated: bool = False
    tie_head: bool = True
    dropout: float = 0.1
    norm_epsilon: float = 1e-6
    scan_layers: bool = False
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self,
            *("vocab_size", "input_length", "target_length", "hidden", "intermediate", "layers"),
            *("decoder_layers", "heads", "head_size", "buckets"),
        )
        if self.buckets % 4:
            raise ModelConfigError(
                f"buckets={self.buckets} must be a multiple of 4: half of them lie behind, and "
                "half of these stand for one distance each."
            )
        if self.max_distance <= self.buckets // 2:
            raise ModelConfigError(
                f"max_distance={self.max_distance} must exceed buckets / 2 = {self.buckets // 2}."
            )
        require_rate(self, "dropout")
        require_remat(self.remat)
        normalise_dtypes(self)


class T5(nn.Module):
    """T5 text-to-text model. Token id 0 is padding in the input, and starts the output.

    Attributes:
        config: Shape and numerics.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, inputs: jax.Array, decoder_inputs: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Predicts each target token from the input and the targets before it.

        Args:
            inputs: Token ids, integer `[batch, input_length]`.
            decoder_inputs: The targets shifted right, integer `[batch, target_length]`.
            deterministic: Switches dropout off; otherwise pass an rng named "dropout".

        Returns:
            Logits `[batch, target_length, vocab_size]` in the config's `dtype`.
        """
        config = self.config
        embed = nn.Embed(
            config.vocab_size,
            config.hidden,
            embedding_init=nn.initializers.normal(1.0),
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="shared",
        )
        # Added to the scores of keys that are padding: [batch, head, query, key].
        padding = jnp.where(inputs != 0, 0.0, _MASKED)[:, None, None, :]
        encoded = Stack(config, deterministic, decodes=False, name="encoder")(
            embed(inputs), None, padding
        )
        x = Stack(config, deterministic, decodes=True, name="decoder")(
            embed(decoder_inputs), encoded, padding
        )
        if config.tie_head:
            return embed.attend(x * config.hidden**-0.5)
        return _dense(config, config.vocab_size, 1.0, name="lm_head")(x)


class Stack(nn.Module):
    """The encoder, or the decoder: blocks that share one table of relative positions."""

    config: T5Config
    deterministic: bool
    decodes: bool

    @nn.compact
    def __call__(self, x: jax.Array, encoded: jax.Array | None, padding: jax.Array) -> jax.Array:
        """Maps embeddings `[batch, length, hidden]` to activations of the same shape.

        Args:
            x: Embeddings.
            encoded: What the encoder returned, for the decoder.
            padding: 0 or a large negative number, added to the scores of the input's tokens.
        """
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        bias = RelativeBias(config, causal=self.decodes, name="relative_bias")(x.shape[1])
        x = apply_blocks(
            DecoderBlock if self.decodes else EncoderBlock,
            dropout(x),
            (bias, encoded, padding) if self.decodes else bias + padding,
            args=(config, self.deterministic),
            layers=config.decoder_layers if self.decodes else config.layers,
            scan=config.scan_layers,
            remat=config.remat,
            name="layers",
        )
        return dropout(_rms_norm(config, "norm")(x))


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each behind a norm and a residual connection."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        y = _rms_norm(config, "attention_norm")(x)
        x = x + dropout(Attention(config, self.deterministic, name="attention")(y, y, bias))
        y = _rms_norm(config, "mlp_norm")(x)
        return x + dropout(MLP(config, self.deterministic, name="mlp")(y)), None


class DecoderBlock(nn.Module):
    """As `EncoderBlock`, with attention to the encoder's result between its two parts."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, shared: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        bias, encoded, padding = shared
        dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        y = _rms_norm(config, "attention_norm")(x)
        x = x + dropout(Attention(config, self.deterministic, name="attention")(y, y, bias))
        y = _rms_norm(config, "cross_attention_norm")(x)
        attend = Attention(config, self.deterministic, name="cross_attention")
        x = x + dropout(attend(y, encoded, padding))
        y = _rms_norm(config, "mlp_norm")(x)
        return x + dropout(MLP(config, self.deterministic, name="mlp")(y)), None


class Attention(nn.Module):
    """Multi-head attention whose scores are not scaled: the initial queries are small instead."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, source: jax.Array, bias: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape.

        Args:
            x: What asks.
            source: What is asked, `[batch, source_length, hidden]`.
            bias: Added to the scores, float32 `[batch or 1, heads or 1, length or 1,
                source_length]`.
        """
        config = self.config
        heads = (config.heads, config.head_size)
        width = config.hidden**-0.5
        query = _dense(config, heads, width * config.head_size**-0.5, name="query")(x)
        key = _dense(config, heads, width, name="key")(source)
        value = _dense(config, heads, width, name="value")(source)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32) + bias
        weights = jax.nn.softmax(scores, axis=-1).astype(config.dtype)
        weights = nn.Dropout(config.dropout, deterministic=self.deterministic)(weights)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        stddev = (config.heads * config.head_size) ** -0.5
        return _dense(config, config.hidden, stddev, name="out", axis=(-2, -1))(y)


class MLP(nn.Module):
    """Two layers with a ReLU between them; in T5 1.1 a gated GELU (Shazeer 2020)."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations `[batch, length, hidden]` to the same shape."""
        config = self.config
        up = _dense(config, config.intermediate, config.hidden**-0.5, name="up")(x)
        if config.gated:
            gate = _dense(config, config.intermediate, config.hidden**-0.5, name="gate")(x)
            y = nn.gelu(gate, approximate=True) * up
        else:
            y = nn.relu(up)
        y = nn.Dropout(config.dropout, deterministic=self.deterministic)(y)
        return _dense(config, config.hidden, config.intermediate**-0.5, name="down")(y)


class RelativeBias(nn.Module):
    """What each head adds to the score of a key at a given distance from the query."""

    config: T5Config
    causal: bool

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """The bias of a self-attention, float32 `[1, heads, length, length]`.

        Args:
            length: Tokens of the sequence.
        """
        config = self.config
        positions = jnp.arange(length)
        distance = positions[None, :] - positions[:, None]
        table = nn.Embed(
            config.buckets,
            config.heads,
            embedding_init=nn.initializers.normal(config.hidden**-0.5),
            param_dtype=config.param_dtype,
            name="table",
        )
        buckets = relative_bucket(distance, self.causal, config.buckets, config.max_distance)
        bias = table(buckets).astype(jnp.float32).transpose(2, 0, 1)[None]
        if self.causal:
            bias = jnp.where(distance[None, None] <= 0, bias, _MASKED)
        return bias


def relative_bucket(
    distance: jax.Array, causal: bool, buckets: int, max_distance: int
) -> jax.Array:
    """Numbers the distances between tokens: near ones each by itself, far ones in growing groups.

    Args:
        distance: The key's position minus the query's, in tokens.
        causal: Whether only what lies behind counts; otherwise half of the buckets are for each
            side.
        buckets: How many numbers there are.
        max_distance: From this distance on, all have the same number.

    Returns:
        Bucket numbers from 0, of `distance`'s shape.
    """
    first = jnp.zeros_like(distance)
    if not causal:
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        behind = jnp.abs(distance)
    else:
        behind = jnp.maximum(-distance, 0)
    single = buckets // 2
    # From `single` to `max_distance` the groups' sizes grow geometrically.
    ratio = jnp.log(jnp.maximum(behind, single) / single) / math.log(max_distance / single)
    grouped = single + (ratio * (buckets - single)).astype(distance.dtype)
    grouped = jnp.minimum(grouped, buckets - 1)
    return first + jnp.where(behind < single, behind, grouped)


def _rms_norm(config: T5Config, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, param_dtype=config.param_dtype, name=name
    )


def _dense(
    config: T5Config,
    features: int | tuple[int, ...],
    stddev: float,
    *,
    name: str,
    axis: int | tuple[int, ...] = -1,
) -> nn.DenseGeneral:
    return nn.DenseGeneral(
        features,
        axis=axis,
        use_bias=False,
        kernel_init=nn.initializers.normal(stddev),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
