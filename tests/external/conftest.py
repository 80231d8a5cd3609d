"""Third-party models, unchanged, on a mesh of eight devices: the numbers of one device."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import autoshard

STRATEGIES = ("dp", "zero3", "tensor", "zero3+tensor")


def perturb(params: Any) -> Any:
    """Random everywhere: what starts at zero hides the gradients of what it multiplies."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda p: jnp.asarray(np.asarray(p) + 0.02 * rng.standard_normal(p.shape), p.dtype), params
    )


def numbers(leaf: Any) -> Any:
    """An array that numpy knows: of a random key, the numbers in it."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def check(
    *,
    loss: Callable[..., tuple[jax.Array, Any]],
    params: Any,
    batch: dict[str, Any],
    collections: Any,
    strategies: tuple[str, ...] = STRATEGIES,
) -> None:
    """Loss, gradients and collections of a train step by each strategy against one device.

    Args:
        loss: `loss(params, collections, batch, key) -> (loss, new collections)`.
        params: What is learned.
        batch: Arrays, the batch dimension first.
        collections: What the forward pass updates, such as batch statistics.
        strategies: How to shard.
    """
    optimizer = optax.sgd(0.1, momentum=0.9)  # its state after one step is the gradient

    def train_step(state: Any, batch: Any) -> Any:
        params, collections, momentum, count = state
        key = jax.random.fold_in(jax.random.key(0), count)
        (value, collections), gradients = jax.value_and_grad(loss, has_aux=True)(
            params, collections, batch, key
        )
        updates, momentum = optimizer.update(gradients, momentum, params)
        return (optax.apply_updates(params, updates), collections, momentum, count + 1), value

    params = perturb(params)
    state = (params, collections, optimizer.init(params), jnp.int32(0))
    expected, expected_loss = jax.jit(train_step)(state, batch)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected[2]))
    assert np.isfinite(scale) and scale > 0
    failures: list[str] = []
    for strategy in strategies:
        step = autoshard.parallelize(
            train_step, mesh="data=2,model=4", strategy=strategy, donate=False
        )
        try:
            actual, value = step(state, batch)
            np.testing.assert_allclose(value, expected_loss, rtol=2e-6)
            for part in (1, 2):
                left, right = (map(numbers, jax.tree.leaves(s[part])) for s in (actual, expected))
                for a, b in zip(left, right, strict=True):
                    np.testing.assert_allclose(a, b, atol=5e-5 * scale, rtol=1e-5)
            cut = [not leaf.spec.is_replicated for leaf in step.last_plan.arguments]
            assert any(cut), "nothing is cut"
            if strategy.startswith("zero3"):
                assert sum(cut) > len(cut) / 2, step.last_plan.notes
        except Exception as error:
            failures.append(f"{strategy}: {type(error).__name__}: {str(error)[:2000]}")
    assert not failures, "\n\n".join(failures)


@pytest.fixture(autouse=True)
def their_rank_promotion() -> Iterator[None]:
    """Their code promotes ranks; that ours does not is tested elsewhere."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def same_on_a_mesh() -> Callable[..., None]:
    return check
