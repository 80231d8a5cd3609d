"""A model with all that a train step needs to know of it: example batches, variables and a loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

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
        module: The Linen module; for NNX models its class.
        default_batch: Examples of a batch that states no size.
        default_seq: Tokens per example of a batch that states no length, or None for the published
            model's length.
    """

    name: str
    config: Any
    module: Any
    default_batch: int = 8
    default_seq: int | None = None

    def example_batch(
        self, batch: int | None = None, seq: int | None = None
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a training batch.

        Args:
            batch: Examples, or None for the preset's number.
            seq: Tokens per example, or None for the preset's length. Models without text have no
                such dimension and refuse it.

        Raises:
            ModelConfigError: A size below 1, or a length for a model without text.
        """
        batch = self.default_batch if batch is None else batch
        seq = self.default_seq if seq is None else seq
        for name, value in (("batch", batch), ("seq", seq)):
            if value is not None and value < 1:
                raise ModelConfigError(f"{name}={value} must be at least 1.")
        return self._batch_shapes(batch, seq)

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
            for name, leaf in self._batch_shapes(1, self._smallest_seq()).items()
        }
        return dict(self.module.init(rng, *self._model_inputs(smallest)))

    def param_shapes(self) -> Any:
        """The `params` collection as ShapeDtypeStructs. Allocates nothing."""
        return jax.eval_shape(self.init, jax.random.key(0))["params"]

    def param_count(self) -> int:
        """How many numbers the model learns."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.param_shapes()))

    @property
    def apply_fn(self) -> Callable[..., Any]:
        """The forward pass, `apply_fn(variables, *inputs)`."""
        return self.module.apply

    @property
    def rng_names(self) -> tuple[str, ...]:
        """Names of the random keys that training draws from in each step."""
        return ("dropout",) if getattr(self.config, "dropout", 0.0) > 0 else ()

    @abstractmethod
    def _batch_shapes(self, batch: int, seq: int | None) -> dict[str, jax.ShapeDtypeStruct]: ...

    @abstractmethod
    def _model_inputs(self, batch: Batch) -> tuple[Any, ...]: ...

    def _smallest_seq(self) -> int | None:
        return None


def refuse_seq(spec: ModelSpec, seq: int | None, does: str) -> None:
    """Raises `ModelConfigError` if a length is given for a model that has none."""
    if seq is not None:
        raise ModelConfigError(f"{spec.name} {does}: leave out seq={seq}.")
