"""A model with all that a train step needs to know of it: example batches, variables and a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from autoshard.models._losses import cross_entropy
from autoshard.models.errors import ModelConfigError

Batch = Mapping[str, Any]
"""Named arrays (or ShapeDtypeStructs), the batch dimension first."""

Rngs = Mapping[str, jax.Array]
"""Random keys by Flax rng name, such as "dropout"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(ABC):
    """A preset, built.

    Attributes:
        name: The preset's name.
        config: The family's configuration, overrides applied.
        module: The Linen module.
    """

    name: str
    config: Any
    module: nn.Module

    @abstractmethod
    def example_batch(self, batch: int, seq: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a training batch.

        Args:
            batch: Examples.
            seq: Tokens per example, or None for the published model's length. Image models have
                no such dimension and refuse it.
        """

    @abstractmethod
    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Training loss, and the variables besides `params` that the forward pass has updated.

        Args:
            params: The `params` collection.
            collections: All other collections, such as `batch_stats`; may be empty.
            batch: Arrays as in `example_batch`.
            rngs: Random keys; without a "dropout" key there is no dropout.

        Returns:
            A float32 scalar and the new collections.
        """

    def loss(self, params: Any, batch: Batch, rngs: Rngs | None = None) -> jax.Array:
        """Training loss of a model that has no variables but its parameters.

        Args:
            params: The `params` collection.
            batch: Arrays as in `example_batch`.
            rngs: Random keys; without a "dropout" key there is no dropout.

        Returns:
            A float32 scalar, in nats.
        """
        return self.loss_and_collections(params, {}, batch, rngs)[0]

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh variables, `params` and any other collection.

        Args:
            rng: Key from `jax.random.key`.
        """
        # The forward pass that Flax runs here is dead code under jit, and no shape of a variable
        # depends on the batch: the smallest one keeps an eager init cheap.
        smallest = {
            name: jnp.zeros(leaf.shape, leaf.dtype)
            for name, leaf in self.example_batch(1, *self._smallest_seq()).items()
        }
        return dict(self.module.init(rng, self._model_input(smallest)))

    def param_shapes(self) -> Any:
        """The `params` collection as ShapeDtypeStructs. Allocates nothing."""
        return jax.eval_shape(self.init, jax.random.key(0))["params"]

    def param_count(self) -> int:
        """How many numbers the model learns."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.param_shapes()))

    @abstractmethod
    def _model_input(self, batch: Batch) -> jax.Array: ...

    def _smallest_seq(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelSpec(ModelSpec):
    """A model that predicts the next token. Batches hold `inputs` and `targets`."""

    def example_batch(self, batch: int, seq: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Token ids `inputs` and `targets`, both int32 `[batch, seq]`."""
        tokens = jax.ShapeDtypeStruct((batch, seq or self.config.max_positions), jnp.int32)
        return {"inputs": tokens, "targets": tokens}

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the next token, in nats; language models have no collections."""
        keys: Any = rngs or {}
        deterministic = "dropout" not in keys
        logits: Any = self.module.apply(
            {"params": params, **collections},
            self._model_input(batch),
            deterministic=deterministic,
            rngs=keys,
        )
        return cross_entropy(logits, batch["targets"]), dict(collections)

    def _model_input(self, batch: Batch) -> jax.Array:
        return batch["inputs"]

    def _smallest_seq(self) -> tuple[int, ...]:
        return (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModelSpec(ModelSpec):
    """A model that classifies images. Batches hold `images` and `labels`."""

    def example_batch(self, batch: int, seq: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Pixels `images`, float32 `[batch, size, size, channels]`; `labels`, int32 `[batch]`."""
        if seq is not None:
            raise ModelConfigError(f"{self.name} classifies images: leave out seq={seq}.")
        size = self.config.image_size
        return {
            "images": jax.ShapeDtypeStruct((batch, size, size, self.config.channels), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }

    def loss_and_collections(
        self, params: Any, collections: Mapping[str, Any], batch: Batch, rngs: Rngs | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross-entropy of the label in nats, and the new `batch_stats`."""
        del rngs
        output: Any = self.module.apply(
            {"params": params, **collections},
            self._model_input(batch),
            train=True,
            mutable=["batch_stats"],
        )
        logits, updated = output
        return cross_entropy(logits, batch["labels"]), {**collections, **updated}

    def _model_input(self, batch: Batch) -> jax.Array:
        return batch["images"]
