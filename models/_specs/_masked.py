"""Models that restore masked tokens and tell whether two sentences belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models._losses import cross_entropy
from autoshard.models._specs._base import Batch, ModelSpec, Rngs

# The share of tokens that BERT is asked for (Devlin et al. 2018, section 3.1).
_MASKED_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLanguageModelSpec(ModelSpec):
    """A BERT in pre-training.

    Batches hold, all int32: `inputs` (token ids, some of them masked), `segments` (0 or 1) and
    `mask` (0 where the text is padded), each `[batch, seq]`; `masked_positions`, `masked_targets`
    (their token ids) and `masked_weights` (0 where there are fewer), each `[batch, 15 % of seq]`;
    and `next_sentence` `[batch]`, 1 where the second sentence is a random one.
    """

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Cross-entropy of the masked tokens plus that of the next sentence, in nats."""
        keys: Any = rngs or {}
        tokens, order = self.module.apply(
            {"params": params, **collections},
            *self._model_inputs(batch),
            deterministic="dropout" not in keys,
            rngs=keys,
        )
        masked = cross_entropy(tokens, batch["masked_targets"], batch["masked_weights"])
        return masked + cross_entropy(order, batch["next_sentence"]), dict(collections)

    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]:
        length = seq or self.config.max_positions
        text = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        masked = jax.ShapeDtypeStruct((batch, max(1, int(_MASKED_SHARE * length))), jnp.int32)
        return {
            **dict.fromkeys(("inputs", "segments", "mask"), text),
            **dict.fromkeys(("masked_positions", "masked_targets", "masked_weights"), masked),
            "next_sentence": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }

    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]:
        return tuple(batch[name] for name in ("inputs", "segments", "mask", "masked_positions"))

    def _smallest_seq(self) -> int | None:
        return 1
