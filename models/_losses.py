"""Cross-entropy in float32, for tokens and for classes."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Mean negative log-likelihood of the labels.

    Args:
        logits: Unnormalised log-probabilities `[..., classes]`, of any floating-point type.
        labels: Class ids, integer `[...]`.
        weights: How much each label counts, `[...]`; all the same by default. If all are zero, so
            is the mean.

    Returns:
        A float32 scalar, in nats.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)
    if weights is None:
        return -jnp.mean(picked)
    counts = weights.astype(jnp.float32)
    total = jnp.sum(counts)
    return -jnp.sum(picked[..., 0] * counts) / jnp.where(total == 0, 1.0, total)
