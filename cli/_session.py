"""A model, its train step and the decorator: the one place where the CLI calls the Python API."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import autoshard
from autoshard import models
from autoshard.cli._options import ModelOptions
from autoshard.cli._overrides import match_types, parse_overrides
from autoshard.cli._user_model import UserStep, is_user_model, load_user_model
from autoshard.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A parallelized train step with all that is needed to plan or run it.

    Attributes:
        spec: The model.
        training: Its functions on one device.
        step: The parallelized train step.
        batch: Shapes and types of a global batch.
    """

    spec: models.ModelSpec
    training: models.Training
    step: autoshard.Parallelized
    batch: dict[str, jax.ShapeDtypeStruct]

    def plan(self) -> autoshard.Plan:
        """The plan of the train step. Allocates nothing."""
        state = jax.eval_shape(self.training.create_state, jax.random.key(0))
        return self.step.plan(state, self.batch)

    def create_state(self, seed: int) -> models.TrainState:
        """A fresh train state, sharded from the start."""
        return self.step.init(
            self.training.create_state, jax.random.key(seed), step_args=(self.batch,)
        )

    def restore_state(self, checkpoint: Path, seed: int) -> models.TrainState:
        """The train state of a checkpoint, which may come from any mesh."""
        return self.step.restore(
            checkpoint,
            self.training.create_state,
            jax.random.key(seed),
            step_args=(self.batch,),
        )

    def share(self) -> tuple[int, int]:
        """Which part of a batch this process holds: it feeds block `i` of `n` equal ones.

        Where the plan replicates the batch over all processes, that is block 0 of 1. The step has
        to be planned.

        Raises:
            UsageError: The mesh gives this process rows that do not lie together.
        """
        (name, struct), *_ = self.batch.items()
        spec = self.step.last_plan.data_leaf(name).spec.partition_spec()
        sharding = jax.sharding.NamedSharding(self.step.mesh, spec)
        indices = sharding.addressable_devices_indices_map(struct.shape).values()
        rows = {index[0].indices(struct.shape[0])[:2] for index in indices if index is not None}
        start, stop = min(rows)[0], max(rows)[1]
        if sum(stop - start for start, stop in rows) != stop - start:
            raise UsageError(
                f"on the mesh {self.step.mesh.shape_tuple}, process {jax.process_index()} holds "
                "rows of the batch that do not lie together",
                "--mesh with the axes that cut the batch first, such as data=2,model=4",
            )
        return start // (stop - start), struct.shape[0] // (stop - start)

    def shard(self, rows: dict[str, np.ndarray]) -> Any:
        """Turns this process's block of a batch into global arrays."""
        return autoshard.shard_batch(rows, self.step)


def build_model(options: ModelOptions, *, seq: int | None = None) -> models.ModelSpec:
    """The model that the options name, overrides applied.

    Args:
        options: Its name and overrides.
        seq: Tokens per sequence, for a callable of the user's own that asks for it.

    Raises:
        ModelError: Unknown name or field, or a configuration that contradicts itself.
        UserModelError: A callable of the user's own that makes no model.
        UsageError: An override cannot be read.
    """
    overrides = parse_overrides(options.set)
    if is_user_model(options.model):
        offered = {"batch": options.batch, "seq": seq}
        made = load_user_model(options.model, overrides, offered)
        if isinstance(made, UserStep):
            raise UsageError(
                f"{options.model} makes a step with its arguments; a model with its loss and data "
                "is needed",
                "return an autoshard.models.LanguageModelSpec, or train the step in Python",
            )
        return made
    return models.get(options.model, **match_types(overrides, models.get(options.model).config))


def open_session(
    options: ModelOptions,
    spec: models.ModelSpec,
    optimizer: optax.GradientTransformation,
    *,
    seq: int | None,
    seed: int = 0,
    plan: Path | None = None,
) -> Session:
    """Decorates the model's train step as the options say.

    Args:
        options: Mesh, strategy and batch size.
        spec: The model.
        optimizer: The optimizer.
        seq: Tokens per sequence, or None for the model's own length.
        seed: Seeds dropout.
        plan: A plan file to follow instead of planning.
    """
    batch = spec.example_batch(options.batch, seq)
    training = models.make_training(spec, optimizer, seed=seed)
    step = autoshard.parallelize(
        training.train_step, mesh=options.mesh, strategy=options.strategy, donate="auto", plan=plan
    )
    return Session(spec=spec, training=training, step=step, batch=batch)
