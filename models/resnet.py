"""ResNet: a residual convolutional network with batch norm, for images.

He et al., "Deep Residual Learning for Image Recognition" (2015), table 1; bottleneck blocks stride
in their 3x3 convolution, as became usual afterwards ("v1.5").
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from autoshard.models._blocks import normalise_dtypes, require_positive
from autoshard.models.errors import ModelConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig:
    """Shape and numerics of a ResNet. The defaults are ResNet-50.

    Attributes:
        num_classes: Classes to tell apart.
        image_size: Height and width of the images of the published model, in pixels.
        channels: Colour channels.
        blocks: Residual blocks in each stage; stages after the first halve the resolution.
        width: Channels inside the first stage's blocks; doubles with each stage.
        block: "basic" (two 3x3) or "bottleneck" (1x1, 3x3, 1x1 with four times the channels).
        stem: "imagenet" (7x7 stride 2, then max-pooling) or "cifar" (3x3).
        norm_momentum: Decay of batch norm's running statistics.
        norm_epsilon: Added to the variance in batch norm.
        dtype: Type of activations and convolutions.
        param_dtype: Type of parameters.
    """

    num_classes: int = 1000
    image_size: int = 224
    channels: int = 3
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    block: Literal["basic", "bottleneck"] = "bottleneck"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "image_size", "channels", "width")
        if not self.blocks or min(self.blocks) < 1:
            raise ModelConfigError(f"blocks={self.blocks} needs at least one block per stage.")
        if self.block not in ("basic", "bottleneck"):
            raise ModelConfigError(f"block={self.block!r} is neither 'basic' nor 'bottleneck'.")
        if self.stem not in ("imagenet", "cifar"):
            raise ModelConfigError(f"stem={self.stem!r} is neither 'imagenet' nor 'cifar'.")
        normalise_dtypes(self)


class ResNet(nn.Module):
    """Image classifier. Its variables are the collections `params` and `batch_stats`.

    Attributes:
        config: Shape and numerics.
    """

    config: ResNetConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Classifies images.

        Args:
            images: Pixels `[batch, height, width, channels]`.
            train: Normalise with the batch's own statistics and update the running ones
                (pass `mutable=["batch_stats"]` to `apply`).

        Returns:
            Logits `[batch, num_classes]` in the config's `dtype`.
        """
        config = self.config
        x = images.astype(config.dtype)
        if config.stem == "imagenet":
            x = _conv(config, config.width, (7, 7), strides=2, name="stem_conv")(x)
        else:
            x = _conv(config, config.width, (3, 3), name="stem_conv")(x)
        x = nn.relu(_batch_norm(config, train, "stem_norm")(x))
        if config.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, count in enumerate(config.blocks):
            for index in range(count):
                x = ResidualBlock(
                    config,
                    width=config.width * 2**stage,
                    strides=2 if stage > 0 and index == 0 else 1,
                    train=train,
                    name=f"stage_{stage}_block_{index}",
                )(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(
            config.num_classes, dtype=config.dtype, param_dtype=config.param_dtype, name="head"
        )(x)


class ResidualBlock(nn.Module):
    """Two or three convolutions added to their input, which is projected where shapes differ."""

    config: ResNetConfig
    width: int
    strides: int
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to the block's resolution and channels."""
        config = self.config
        if config.block == "basic":
            widths, kernels, strides = (self.width,) * 2, (3, 3), (self.strides, 1)
        else:
            widths = (self.width, self.width, 4 * self.width)
            kernels, strides = (1, 3, 1), (1, self.strides, 1)
        y = x
        last = len(kernels) - 1
        for i, (width, kernel, stride) in enumerate(zip(widths, kernels, strides, strict=True)):
            y = _conv(config, width, (kernel, kernel), strides=stride, name=f"conv_{i}")(y)
            # A zero scale makes each block the identity at first: Goyal et al., "Accurate, Large
            # Minibatch SGD" (2017), section 5.1.
            y = _batch_norm(config, self.train, f"norm_{i}", zero_scale=i == last)(y)
            if i < last:
                y = nn.relu(y)
        if x.shape != y.shape:
            x = _conv(config, widths[-1], (1, 1), strides=self.strides, name="shortcut_conv")(x)
            x = _batch_norm(config, self.train, "shortcut_norm")(x)
        return nn.relu(x + y)


def _conv(
    config: ResNetConfig, features: int, kernel: tuple[int, int], *, strides: int = 1, name: str
) -> nn.Conv:
    return nn.Conv(
        features,
        kernel,
        strides=strides,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _batch_norm(
    config: ResNetConfig, train: bool, name: str, *, zero_scale: bool = False
) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=config.norm_momentum,
        epsilon=config.norm_epsilon,
        scale_init=nn.initializers.zeros if zero_scale else nn.initializers.ones,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
