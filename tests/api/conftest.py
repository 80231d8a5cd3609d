"""A step small enough to be planned and compiled for every test."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

State = dict[str, jax.Array]


def loss_of(state: State, batch: dict[str, Any]) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ state["w"] + state["b"][None])
    return jnp.mean((hidden @ state["v"] - batch["y"]) ** 2)


def train_step(state: State, batch: dict[str, Any]) -> tuple[State, dict[str, jax.Array]]:
    loss, gradients = jax.value_and_grad(loss_of)(state, batch)
    new = {name: state[name] - 0.1 * gradients[name] for name in state}
    return new, {"loss": loss}


def create(key: jax.Array) -> State:
    one, two = jax.random.split(key)
    return {
        "b": jnp.zeros((32,)),
        "v": jax.random.normal(one, (32, 16)) / 8,
        "w": jax.random.normal(two, (16, 32)) / 8,
    }


def make_batch(n: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((n, 16), dtype=np.float32),
        "y": random.standard_normal((n, 16), dtype=np.float32),
    }


@pytest.fixture
def step_function() -> Callable[..., Any]:
    return train_step


@pytest.fixture
def loss_function() -> Callable[..., Any]:
    return loss_of


@pytest.fixture
def create_state() -> Callable[[jax.Array], State]:
    return create


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    return make_batch()


@pytest.fixture
def batch_of() -> Callable[..., dict[str, np.ndarray]]:
    return make_batch


@pytest.fixture
def on_one_device(batch: dict[str, np.ndarray]) -> tuple[State, dict[str, jax.Array]]:
    """The state after one step on one device, and its metrics."""
    return jax.jit(train_step)(create(jax.random.key(0)), batch)


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Compare two trees of float32 arrays."""

    def check(left: Any, right: Any, rtol: float = 2e-5) -> None:
        assert jax.tree.structure(left) == jax.tree.structure(right)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-6)

    return check
