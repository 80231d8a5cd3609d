"""Models that classify images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models._losses import cross_entropy
from autoshard.models._specs._base import Batch, ModelSpec, Rngs, refuse_seq


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModelSpec(ModelSpec):
    """A model that classifies images.

    Batches hold pixels `images`, float32 `[batch, size, size, channels]`, and int32 `labels`.
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the label in nats, and the new `batch_stats` if there are any."""
        keys: Any = rngs or {}
        output: Any = self.module.apply(
            {"params": params, **collections},
            batch["images"],
            # Dropout is all that training changes in a model without batch statistics.
            train=bool(collections) or "dropout" in keys,
            rngs=keys,
            mutable=list(collections),
        )
        logits, updated = output
        return cross_entropy(logits, batch["labels"]), {**collections, **updated}

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        refuse_seq(self, seq, "classifies images")
        size = self.config.image_size
        return {
            "images": jax.ShapeDtypeStruct((batch, size, size, self.config.channels), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch["images"],)
