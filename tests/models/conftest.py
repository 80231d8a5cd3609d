"""Batches and perturbed states for any model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models

# Exclusive upper bounds of what a batch holds besides token ids.
_BOUNDS = {"segments": 2, "mask": 2, "masked_weights": 2, "next_sentence": 2}


def draw_batch(spec: models.ModelSpec, batch: int = 8, seq: int | None = None) -> dict[str, Any]:
    """A random batch of the model's example shapes."""
    rng = np.random.default_rng(7)
    shapes = spec.example_batch(batch, seq)

    def draw(name: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if name == "sparse":
            rows = [rng.integers(0, rows, batch) for rows in spec.config.table_rows]
            return np.stack(rows, axis=1).astype(np.int32)
        if name == "labels" and shape.dtype == jnp.float32:
            return rng.integers(0, 2, shape.shape).astype(np.float32)
        if shape.dtype == jnp.float32:
            return rng.standard_normal(shape.shape).astype(np.float32)
        if name == "labels":
            bound = spec.config.num_classes
        elif name == "masked_positions":
            bound = shapes["inputs"].shape[1]
        else:
            bound = _BOUNDS.get(name) or spec.config.vocab_size
        return rng.integers(0, bound, shape.shape).astype(np.int32)

    return {name: jnp.asarray(draw(name, shape)) for name, shape in shapes.items()}


def perturb(params: Any, scale: float = 0.05) -> Any:
    """Random everywhere: what starts at zero hides the gradients of what it multiplies."""
    rng = np.random.default_rng(3)
    # In numpy: jax would compile an addition for every shape.
    return jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) + scale * rng.standard_normal(p.shape), p.dtype), params
    )


@pytest.fixture
def batch_of() -> Callable[..., dict[str, Any]]:
    return draw_batch


@pytest.fixture
def perturbed() -> Callable[..., Any]:
    return perturb
