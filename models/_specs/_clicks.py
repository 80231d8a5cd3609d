"""Models that tell how likely a person clicks on an advertisement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autoshard.models._specs._base import Batch, ModelSpec, Rngs, refuse_seq


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickModelSpec(ModelSpec):
    """A recommender.

    Batches hold `dense`, float32 `[batch, dense_features]`; `sparse`, int32 `[batch, tables]`, in
    each column row numbers of one table; and `labels`, float32 `[batch]`, 1 for a click.
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean binary cross-entropy of the click, in nats."""
        del rngs
        logits: Any = self.module.apply(
            {"params": params, **collections}, *self._model_inputs(batch)
        )
        losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), batch["labels"])
        return jnp.mean(losses), dict(collections)

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        refuse_seq(self, seq, "predicts clicks")
        config = self.config
        return {
            "dense": jax.ShapeDtypeStruct((batch, config.dense_features), jnp.float32),
            "sparse": jax.ShapeDtypeStruct((batch, len(config.table_rows)), jnp.int32),
            "labels": jax.ShapeDtypeStruct((batch,), jnp.float32),
        }

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return batch["dense"], batch["sparse"]
