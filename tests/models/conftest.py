"""Random batches and states of any model."""

import functools
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


def draw_params(shapes: Any, scale: float = 0.2) -> Any:
    """Random numbers everywhere: what starts at zero hides the gradients of what it multiplies.

    Drawn by numpy, for jax takes longer to compile an initialization than a step.
    """
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda s: jnp.asarray(scale * rng.standard_normal(s.shape), s.dtype), shapes
    )


def draw_state(training: models.Training) -> models.TrainState:
    """A train state with random parameters; all else is zero."""
    state = jax.eval_shape(training.create_state, jax.random.key(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
    return zeros.replace(params=draw_params(state.params))


@functools.cache
def count_params(name: str) -> int:
    """The model's number of parameters; large models take a second each."""
    return models.get(name).param_count()


@pytest.fixture
def count_of() -> Callable[[str], int]:
    return count_params


@pytest.fixture
def batch_of() -> Callable[..., dict[str, Any]]:
    return draw_batch


@pytest.fixture
def params_of() -> Callable[..., Any]:
    return draw_params


@pytest.fixture
def state_of() -> Callable[..., models.TrainState]:
    return draw_state
