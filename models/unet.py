"""U-Net: a convolutional network with skip connections that takes noise out of images.

Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B.
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from autoshard.models._blocks import (
    Remat,
    normalise_dtypes,
    require_positive,
    require_rate,
    require_remat,
    with_remat,
)
from autoshard.models.errors import ModelConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """Shape and numerics of a U-Net. The defaults are those published for CIFAR-10.

    Attributes:
        image_size: Height and width of the images, in pixels.
        channels: Colour channels.
        width: Channels at full resolution; a multiple of `groups`.
        multipliers: Channels of each resolution over `width`; each resolution is half of the one
            before.
        blocks: Residual blocks of each resolution on the way down; on the way up it is one more.
        attention_sizes: Resolutions, in pixels, whose blocks also attend.
        groups: Groups of channels in group norm.
        dropout: Rate inside each residual block.
        diffusion_steps: Strengths of noise that the model tells apart.
        norm_epsilon: Added to the variance in group norm.
        remat: What the backward pass recomputes, of each residual block.
        dtype: Type of activations and convolutions.
        param_dtype: Type of parameters.
    """

    image_size: int = 32
    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention_sizes: tuple[int, ...] = (16,)
    groups: int = 32
    dropout: float = 0.1
    diffusion_steps: int = 1000
    norm_epsilon: float = 1e-6
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self, "image_size", "channels", "width", "blocks", "groups", "diffusion_steps"
        )
        if not self.multipliers or min(self.multipliers) < 1:
            raise ModelConfigError(
                f"multipliers={self.multipliers} needs at least one resolution, each at least 1."
            )
        halvings = 2 ** (len(self.multipliers) - 1)
        if self.image_size % halvings:
            raise ModelConfigError(
                f"image_size={self.image_size} is not a multiple of {halvings}, by which "
                f"multipliers={self.multipliers} divide it."
            )
        if self.width % self.groups or self.width % 2:
            raise ModelConfigError(
                f"width={self.width} must be even and a multiple of groups={self.groups}."
            )
        require_rate(self, "dropout")
        require_remat(self.remat)
        normalise_dtypes(self)


class UNet(nn.Module):
    """Predicts the noise in an image.

    Attributes:
        config: Shape and numerics.
    """

    config: UNetConfig

    @nn.compact
    def __call__(
        self, images: jax.Array, steps: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Predicts the noise that was added.

        Args:
            images: Noisy pixels `[batch, image_size, image_size, channels]`.
            steps: How much noise they hold, integer `[batch]` from 0 to below `diffusion_steps`.
            deterministic: Switches dropout off; otherwise pass an rng named "dropout".

        Returns:
            Predicted noise of `images`' shape, in the config's `dtype`.
        """
        config = self.config
        time = TimeEmbedding(config, name="time")(steps)

        def level(x: jax.Array, index: int, name: str) -> jax.Array:
            attends = x.shape[1] in config.attention_sizes
            width = config.width * config.multipliers[index]
            return Level(config, width, attends, deterministic, name=name)(x, time)

        x = _conv(config, config.width, name="stem")(images.astype(config.dtype))
        skips = [x]
        last = len(config.multipliers) - 1
        for index in range(last + 1):
            for block in range(config.blocks):
                x = level(x, index, f"down_{index}_{block}")
                skips.append(x)
            if index < last:
                x = _conv(config, x.shape[-1], strides=2, name=f"downsample_{index}")(x)
                skips.append(x)

        middle = with_remat(ResidualBlock, config.remat)
        x = middle(config, x.shape[-1], deterministic, name="middle_0")(x, time)
        x = SelfAttention(config, name="middle_attention")(x)
        x = middle(config, x.shape[-1], deterministic, name="middle_1")(x, time)

        for index in reversed(range(last + 1)):
            for block in range(config.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = level(x, index, f"up_{index}_{block}")
            if index > 0:
                batch, height, width, channels = x.shape
                x = jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "nearest")
                x = _conv(config, channels, name=f"upsample_{index}")(x)
        x = nn.silu(_group_norm(config, "norm")(x))
        return _conv(config, config.channels, zero=True, name="head")(x)


class TimeEmbedding(nn.Module):
    """Sines and cosines of the step, and two layers."""

    config: UNetConfig

    @nn.compact
    def __call__(self, steps: jax.Array) -> jax.Array:
        """Maps step numbers `[batch]` to `[batch, 4 * width]`."""
        config = self.config
        half = config.width // 2
        # Vaswani et al. (2017), section 3.5, all sines first.
        exponents = jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1)
        frequencies = jnp.exp(-math.log(10_000) * exponents)
        angles = steps.astype(jnp.float32)[:, None] * frequencies[None, :]
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = nn.silu(_dense(config, 4 * config.width, "dense_0")(x))
        return _dense(config, 4 * config.width, "dense_1")(x)


class Level(nn.Module):
    """A residual block and, at some resolutions, attention behind it."""

    config: UNetConfig
    width: int
    attends: bool
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `self.width` channels."""
        block = with_remat(ResidualBlock, self.config.remat)
        x = block(self.config, self.width, self.deterministic, name="block")(x, time)
        return SelfAttention(self.config, name="attention")(x) if self.attends else x


class ResidualBlock(nn.Module):
    """Two convolutions, the step's embedding added between them, around a connection."""

    config: UNetConfig
    width: int
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `self.width` channels."""
        config = self.config
        y = nn.silu(_group_norm(config, "norm_0")(x))
        y = _conv(config, self.width, name="conv_0")(y)
        y = y + _dense(config, self.width, "time")(nn.silu(time))[:, None, None, :]
        y = nn.silu(_group_norm(config, "norm_1")(y))
        y = nn.Dropout(config.dropout, deterministic=self.deterministic)(y)
        y = _conv(config, self.width, zero=True, name="conv_1")(y)
        if x.shape[-1] != self.width:
            x = _dense(config, self.width, "shortcut")(x)
        return x + y


class SelfAttention(nn.Module):
    """Attention of one head between the pixels, around a connection."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the same shape."""
        config = self.config
        batch, height, width, channels = x.shape
        y = _group_norm(config, "norm")(x).reshape(batch, height * width, 1, channels)
        query, key, value = (
            _dense(config, channels, name)(y) for name in ("query", "key", "value")
        )
        y = nn.dot_product_attention(query, key, value, force_fp32_for_softmax=True)
        y = _dense(config, channels, "out", zero=True)(y)
        return x + y.reshape(x.shape)


def _group_norm(config: UNetConfig, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(
        config.groups,
        epsilon=config.norm_epsilon,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _initializer(zero: bool) -> jax.nn.initializers.Initializer:
    # The paper's code starts what adds to a connection at (almost) zero, the rest uniformly.
    return nn.initializers.variance_scaling(1e-10 if zero else 1.0, "fan_avg", "uniform")


def _dense(config: UNetConfig, features: int, name: str, *, zero: bool = False) -> nn.Dense:
    return nn.Dense(
        features,
        kernel_init=_initializer(zero),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _conv(
    config: UNetConfig, features: int, *, strides: int = 1, zero: bool = False, name: str
) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        strides=strides,
        kernel_init=_initializer(zero),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
