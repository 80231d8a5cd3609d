"""DLRM: a recommender of embedding tables, two MLPs, and the dot products between features.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems"
(2019), section 2.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from autoshard.models._blocks import normalise_dtypes, require_positive
from autoshard.models.errors import ModelConfigError

# Categories in each column of the Criteo Kaggle data, as the published preprocessing counts them.
CRITEO_KAGGLE = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
# The same of the Criteo terabyte data, ids taken modulo 10 million and modulo 40 million.
CRITEO_TERABYTE_10M = (
    *(9980333, 36084, 17217, 7378, 20134, 3, 7112, 1442, 61, 9758201, 1333352, 313829, 10),
    *(2208, 11156, 122, 4, 970, 14, 9994222, 7267859, 9946608, 415421, 12420, 101, 36),
)
CRITEO_TERABYTE_40M = (
    *(39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10),
    *(2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DLRMConfig:
    """Shape and numerics of a DLRM. The defaults are those published for the terabyte data.

    Attributes:
        dense_features: Numbers that describe an example.
        table_rows: Rows of each embedding table; an example picks one of each.
        embedding: Width of the tables.
        bottom: Widths of the layers that the numbers pass; the last must be `embedding`.
        top: Widths of the hidden layers behind the interaction.
        dtype: Type of activations and matmuls.
        param_dtype: Type of parameters.
    """

    dense_features: int = 13
    table_rows: tuple[int, ...] = CRITEO_TERABYTE_10M
    embedding: int = 64
    bottom: tuple[int, ...] = (512, 256, 64)
    top: tuple[int, ...] = (512, 512, 256)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        require_positive(self, "dense_features", "embedding")
        for field in ("table_rows", "bottom", "top"):
            sizes = getattr(self, field)
            if not sizes or min(sizes) < 1:
                raise ModelConfigError(f"{field}={sizes} needs at least one size, each at least 1.")
        if self.bottom[-1] != self.embedding:
            raise ModelConfigError(
                f"bottom={self.bottom} must end in embedding={self.embedding}: its result is "
                "multiplied with rows of the tables."
            )
        normalise_dtypes(self)


class DLRM(nn.Module):
    """Predicts whether a person clicks.

    Attributes:
        config: Shape and numerics.
    """

    config: DLRMConfig

    @nn.compact
    def __call__(self, dense: jax.Array, sparse: jax.Array) -> jax.Array:
        """Scores examples.

        Args:
            dense: Numbers `[batch, dense_features]`.
            sparse: A row number for each table, integer `[batch, tables]`.

        Returns:
            Logits of a click, `[batch]` in the config's `dtype`.
        """
        config = self.config
        x = MLP(config, config.bottom, name="bottom")(dense.astype(config.dtype))
        rows = [
            _table(config, size, name=f"table_{index}")(sparse[:, index])
            for index, size in enumerate(config.table_rows)
        ]
        features = jnp.stack([x, *rows], axis=1)
        products = jnp.einsum("bif,bjf->bij", features, features)
        first, second = np.tril_indices(features.shape[1], k=-1)
        x = jnp.concatenate([x, products[:, first, second]], axis=1)
        x = MLP(config, config.top, name="top")(x)
        return _dense(config, x.shape[-1], 1, name="head")(x)[:, 0]


class MLP(nn.Module):
    """Layers with a ReLU behind each."""

    config: DLRMConfig
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, features]` to `[batch, widths[-1]]`."""
        for index, width in enumerate(self.widths):
            x = nn.relu(_dense(self.config, x.shape[-1], width, name=f"dense_{index}")(x))
        return x


def _table(config: DLRMConfig, rows: int, *, name: str) -> nn.Embed:
    return nn.Embed(
        rows,
        config.embedding,
        # Uniform in ±1/√rows, as published.
        embedding_init=lambda key, shape, dtype: jax.random.uniform(
            key, shape, dtype, -(rows**-0.5), rows**-0.5
        ),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )


def _dense(config: DLRMConfig, inputs: int, features: int, *, name: str) -> nn.Dense:
    return nn.Dense(
        features,
        # Published: kernels with variance 2 / (inputs + outputs), biases with 1 / outputs.
        kernel_init=nn.initializers.normal((2 / (inputs + features)) ** 0.5),
        bias_init=nn.initializers.normal(features**-0.5),
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        name=name,
    )
