"""Models that predict the next token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models._losses import cross_entropy
from autoshard.models._specs._base import Batch, ModelSpec, Rngs


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelSpec(ModelSpec):
    """A model that predicts the next token. Batches hold `inputs` and `targets`, `[batch, seq]`."""

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the next token, in nats; language models have no collections."""
        keys: Any = rngs or {}
        logits: Any = self.module.apply(
            {"params": params, **collections},
            batch["inputs"],
            deterministic="dropout" not in keys,
            rngs=keys,
        )
        return cross_entropy(logits, batch["targets"]), dict(collections)

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        tokens = jax.ShapeDtypeStruct((batch, seq or self.config.max_positions), jnp.int32)
        return {"inputs": tokens, "targets": tokens}

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch["inputs"],)

    def _smallest_seq(self) -> int | None:
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLanguageModelSpec(LanguageModelSpec):
    """A language model whose layers tell, in the collection `losses`, how uneven their experts are.

    Its training loss is the cross-entropy plus `config.balance_weight` times their mean.
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the next token in nats, plus the load-balancing loss."""
        output: Any = self.module.apply(
            {"params": params, **collections}, batch["inputs"], rngs=rngs, mutable=["losses"]
        )
        logits, sown = output
        # One number per layer, in one array if the layers are scanned.
        balance = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(sown)) / self.config.layers
        loss = cross_entropy(logits, batch["targets"]) + self.config.balance_weight * balance
        return loss, dict(collections)
