"""Cross-entropy in float32, for tokens and for classes."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the labels.

    Args:
        logits: Unnormalised log-probabilities `[..., classes]`, of any floating-point type.
        labels: Class ids, integer `[...]`.

    Returns:
        A float32 scalar, in nats.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)
    return -jnp.mean(picked)
