"""Models that read one text and write another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models._losses import cross_entropy
from autoshard.models._specs._base import Batch, ModelSpec, Rngs


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToTextModelSpec(ModelSpec):
    """An encoder-decoder. Batches hold token ids `inputs` and `targets`, 0 where they are padded.

    `example_batch(seq=n)` gives inputs of `n` tokens, and targets in the preset's proportion.
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the target tokens, padding left out, in nats."""
        keys: Any = rngs or {}
        logits: Any = self.module.apply(
            {"params": params, **collections},
            *self._model_inputs(batch),
            deterministic="dropout" not in keys,
            rngs=keys,
        )
        targets = batch["targets"]
        return cross_entropy(logits, targets, targets != 0), dict(collections)

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        inputs, targets = self.config.input_length, self.config.target_length
        if seq is not None:
            inputs, targets = seq, max(1, seq * targets // inputs)
        return {
            "inputs": jax.ShapeDtypeStruct((batch, inputs), jnp.int32),
            "targets": jax.ShapeDtypeStruct((batch, targets), jnp.int32),
        }

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        # The decoder sees each target behind a start token, which in T5 is the padding's id.
        targets = batch["targets"]
        return batch["inputs"], jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))

    def _smallest_seq(self) -> int | None:
        return 1
