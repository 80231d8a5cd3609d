"""ViT: a transformer encoder on patches of an image.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale"
(2021), section 3.1.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """Shape and numerics of a ViT. The defaults are ViT-B/16.

    Attributes:
        num_classes: Classes to tell apart.
        image_size: Height and width of the images, in pixels.
        patch_size: Height and width of a patch; must divide `image_size`.
        channels: Colour channels.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP.
        layers: Number of blocks.
        heads: Attention heads; must divide `hidden`.
        dropout: Rate after the position embedding and after each layer of the MLP.
        norm_epsilon: Added to the variance in layer norm.
        scan_layers: Roll the blocks into one `nn.scan`.
        remat: What the backward pass recomputes.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    num_classes: int = 1000
    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    hidden: int = 768
    intermediate: int = 3072
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    norm_epsilon: float = 1e-6
    scan_layers: bool = False
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(
            self,
            *("num_classes", "image_size", "patch_size", "channels", "hidden", "intermediate"),
            *("layers", "heads"),
        )
        require_divisible(self, "image_size", "patch_size")
        require_divisible(self, "hidden", "heads")
        require_rate(self, "dropout")
        require_remat(self.remat)
        normalise_dtypes(self)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class ViT(nn.Module):
    """Image classifier.

    Attributes:
        config: Shape and numerics.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Classifies images.

        Args:
            images: Pixels `[batch, image_size, image_size, channels]`.
            train: Switches dropout on; pass an rng named "dropout" if the rate is above zero.

        Returns:
            Logits `[batch, num_classes]` in the config's `dtype`.
        """
        config = self.config
        patch = (config.patch_size, config.patch_size)
        x = nn.Conv(
            config.hidden,
            patch,
            strides=patch,
            padding="VALID",
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="patch_embedding",
        )(images.astype(config.dtype))
        x = x.reshape(x.shape[0], -1, config.hidden)
        token = self.param(
            "class_token", nn.initializers.zeros, (1, 1, config.hidden), config.param_dtype
        )
        token = jnp.broadcast_to(token.astype(config.dtype), (x.shape[0], 1, config.hidden))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "position_embedding",
            nn.initializers.normal(0.02),
            (1, *x.shape[1:]),
            config.param_dtype,
        )
        x = x + positions.astype(config.dtype)
        x = apply_blocks(
            ViTBlock,
            nn.Dropout(config.dropout, deterministic=not train)(x),
            None,
            args=(config, not train),
            layers=config.layers,
            scan=config.scan_layers,
            remat=config.remat,
            name="layers",
        )
        x = _layer_norm(config, "norm")(x[:, 0])
        # The paper starts the classifier at zero.
        return nn.Dense(
            config.num_classes,
            kernel_init=nn.initializers.zeros,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            name="head",
        )(x)


class ViTBlock(nn.Module):
    """Self-attention and an MLP, each behind a layer norm and a residual connection."""

    config: ViTConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Maps `[batch, length, hidden]` to the same shape; the pair suits `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=self.deterministic)
        y = _layer_norm(config, "attention_norm")(x)
        heads = (config.heads, config.head_size)
        query, key, value = (_dense(config, heads, name)(y) for name in ("query", "key", "value"))
        y = nn.dot_product_attention(query, key, value, force_fp32_for_softmax=True)
        x = x + dropout(_dense(config, config.hidden, "out", axis=(-2, -1))(y))
        y = _layer_norm(config, "mlp_norm")(x)
        y = dropout(nn.gelu(_dense(config, config.intermediate, "up")(y), approximate=False))
        return x + dropout(_dense(config, config.hidden, "down")(y)), None


def _layer_norm(config: ViTConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, param_dtype=config.param_dtype, name=name
    )


def _dense(
    config: ViTConfig,
    features: int | tuple[int, ...],
    name: str,
    *,
    axis: int | tuple[int, ...] = -1,
) -> nn.DenseGeneral:
    return nn.DenseGeneral(
        features,
        axis=axis,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
