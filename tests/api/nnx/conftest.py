"""An NNX model with everything that changes in a step: statistics, streams, metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

LAYOUTS = [
    ("data=8", "dp"),
    ("data=2,model=4", "zero3"),
    ("model=8", "tensor"),
    ("data=2,model=4", "zero3+tensor"),
]


class Net(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(16, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(32, 8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.drop(nnx.relu(self.norm(self.embed(x)))))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train_step(model: Any, optimizer: Any, metrics: Any, batch: Any) -> jax.Array:
    loss, grads = nnx.value_and_grad(lambda m: cross_entropy(m(batch["x"]), batch["y"]))(model)
    optimizer.update(model, grads)
    metrics.update(values=loss)
    return loss


def create(rngs: nnx.Rngs | None = None) -> tuple[Any, Any, Any]:
    model = Net(rngs=nnx.Rngs(0) if rngs is None else rngs)
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
    return model, optimizer, nnx.metrics.Average()


@pytest.fixture(params=LAYOUTS, ids=lambda p: p[1])
def layout(request: pytest.FixtureRequest) -> dict[str, str]:
    mesh, strategy = request.param
    return {"mesh": mesh, "strategy": strategy}


@pytest.fixture
def net() -> type:
    return Net


@pytest.fixture
def step_function() -> Callable[..., Any]:
    return train_step


@pytest.fixture
def make() -> Callable[..., Any]:
    return create


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x": random.standard_normal((16, 16), dtype=np.float32),
        "y": random.integers(0, 8, 16).astype(np.int32),
    }


def numbers(tree: Any) -> list[np.ndarray]:
    """All arrays of NNX objects or trees, keys as their bits."""
    _, state = nnx.split(tree)
    found = []
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.append(np.asarray(leaf))
    return found


@pytest.fixture
def same() -> Callable[..., None]:
    """Compare the arrays of two trees, relative to the largest number in each."""

    def check(left: Any, right: Any, tolerance: float = 2e-5) -> None:
        one, two = numbers(left), numbers(right)
        assert len(one) == len(two) > 0
        for a, b in zip(one, two, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            scale = max(1.0, float(np.abs(b.astype(np.float64)).max(initial=0)))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    return check
