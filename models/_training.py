"""A train step for any model and any optax optimizer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from flax import nnx
from flax.training import train_state

from autoshard.models._losses import cross_entropy
from autoshard.models._specs import Batch, ModelSpec, NNXLanguageModelSpec

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


class NNXTraining(NamedTuple):
    """Two functions that train an NNX model on one device, as NNX users write them.

    Attributes:
        create: `create(rng) -> (model, optimizer)`.
        train_step: `train_step(model, optimizer, batch) -> {"loss": float32 scalar}`; updates the
            model and the optimizer in place.
    """

    create: Callable[[jax.Array], "tuple[nnx.Module, nnx.Optimizer[Any]]"]
    train_step: Callable[[nnx.Module, "nnx.Optimizer[Any]", Batch], dict[str, jax.Array]]


def make_training(
    spec: ModelSpec, optimizer: "optax.GradientTransformation", *, seed: int = 0
) -> Training:
    """Builds the functions that create and advance a model's train state.

    Args:
        spec: The model, of Linen or NNX.
        optimizer: Any optax optimizer.
        seed: Seeds dropout, and the noise of a diffusion model. Its key is folded with the step, so
            that a resumed run draws the same numbers as an uninterrupted one.

    Returns:
        `create_state` and `train_step`, to be jitted or parallelized.
    """
    # One object, so that the static parts of two states compare equal.
    apply = spec.apply_fn
    rng_names = spec.rng_names

    def create_state(rng: jax.Array) -> TrainState:
        variables = spec.init(rng)
        params = variables.pop("params")
        return TrainState.create(apply_fn=apply, params=params, tx=optimizer, collections=variables)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        rngs = None
        if rng_names:
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            rngs = dict(zip(rng_names, jax.random.split(key, len(rng_names)), strict=True))

        def loss(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            return spec.loss_and_collections(params, state.collections, batch, rngs)

        (value, collections), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        state = state.apply_gradients(grads=gradients, collections=collections)
        return state, {"loss": value}

    return Training(create_state, train_step)


def make_nnx_training(
    spec: NNXLanguageModelSpec, optimizer: "optax.GradientTransformation"
) -> NNXTraining:
    """Builds the functions that create and advance an NNX module and its optimizer.

    Args:
        spec: The model.
        optimizer: Any optax optimizer.

    Returns:
        `create` and `train_step`, to be decorated with `nnx.jit` or parallelized.
    """

    def create(rng: jax.Array) -> tuple[nnx.Module, nnx.Optimizer[Any]]:
        model = spec.build(nnx.Rngs(rng))
        return model, nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    def train_step(
        model: nnx.Module, optimizer: nnx.Optimizer[Any], batch: Batch
    ) -> dict[str, jax.Array]:
        def loss(model: Any) -> jax.Array:
            return cross_entropy(model(batch["inputs"]), batch["targets"])

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return {"loss": value}

    return NNXTraining(create, train_step)
