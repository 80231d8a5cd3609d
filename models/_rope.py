"""Rotary position embedding (RoPE), with Llama 3.1's frequency scaling.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), section 3.4.2.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How Llama 3.1 stretches the slow rotations to reach past its first training length.

    "The Llama 3 Herd of Models" (2024), section 3.4.2; the values are those of the published
    configurations' `rope_scaling` entry.

    Attributes:
        factor: Divides the frequency of rotations slower than the low bound.
        low_frequency_factor: `original_positions` over the longest wavelength kept partly as is.
        high_frequency_factor: `original_positions` over the longest wavelength kept fully as is.
        original_positions: Context length of the first training stage, in tokens.
    """

    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192


def rope_table(
    positions: jax.Array, head_size: int, *, base: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every position's rotation angles.

    Args:
        positions: Positions in tokens, `[length]`.
        head_size: Width of an attention head; even.
        base: Ratio between the fastest and the slowest rotation (the paper's 10000).
        scaling: Stretches slow rotations, or None.

    Returns:
        Two float32 arrays `[length, head_size / 2]`.
    """
    exponents = jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size
    frequencies = 1.0 / base**exponents
    if scaling is not None:
        frequencies = _stretch(frequencies, scaling)
    angles = positions.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates each head's dimension `i` together with dimension `i + head_size / 2`.

    Args:
        x: Queries or keys, `[batch, length, heads, head_size]`.
        table: What `rope_table` returned for these positions.

    Returns:
        The rotated array, of `x`'s shape and type; the arithmetic is float32.
    """
    cos, sin = (t[None, :, None, :] for t in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def _stretch(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    # 0 below the low bound (fully stretched), 1 above the high one (as it was), linear between.
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / scaling.factor)
