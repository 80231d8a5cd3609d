"""A train step for any model and any optax optimizer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from flax.training import train_state

from autoshard.models._spec import Batch, ModelSpec

if TYPE_CHECKING:
    import optax


class TrainState(train_state.TrainState):
    """Flax's train state, with the collections besides `params`.

    Attributes:
        collections: Variables that the forward pass updates, such as `batch_stats`; may be empty.
    """

    collections: Any


class Training(NamedTuple):
    """Two pure functions that train a model on one device.

    Attributes:
        create_state: `create_state(rng) -> TrainState`.
        train_step: `train_step(state, batch) -> (state, {"loss": float32 scalar})`.
    """

    create_state: Callable[[jax.Array], TrainState]
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_training(
    spec: ModelSpec, optimizer: "optax.GradientTransformation", *, seed: int = 0
) -> Training:
    """Builds the functions that create and advance a model's train state.

    Args:
        spec: The model.
        optimizer: Any optax optimizer.
        seed: Seeds dropout. Its key is folded with the step, so that a resumed run draws the same
            masks as an uninterrupted one.

    Returns:
        `create_state` and `train_step`, to be jitted or parallelized.
    """
    # One object, so that the static parts of two states compare equal.
    apply = spec.module.apply
    uses_dropout = getattr(spec.config, "dropout", 0.0) > 0

    def create_state(rng: jax.Array) -> TrainState:
        variables = spec.init(rng)
        params = variables.pop("params")
        return TrainState.create(apply_fn=apply, params=params, tx=optimizer, collections=variables)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rngs = None
        if uses_dropout:
            rngs = {"dropout": jax.random.fold_in(jax.random.key(seed), state.step)}

        def loss(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            return spec.loss_and_collections(params, state.collections, batch, rngs)

        (value, collections), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = state.apply_gradients(grads=gradients, collections=collections)
        return state, {"loss": value}

    return Training(create_state, train_step)
