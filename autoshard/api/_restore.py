"""``step.restore``: the state of a checkpoint, where the step wants it now."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from autoshard.api._init import check_arguments
from autoshard.api._planning import planning
from autoshard.checkpoint import latest, load

if TYPE_CHECKING:
    from autoshard.api._parallelized import Parallelized


def restore_state(
    step: Parallelized,
    path: str | os.PathLike[str],
    create: Callable[..., Any] | Any,
    args: Sequence[Any],
    step_args: Sequence[Any],
    step_kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    """Load the state that a step takes first into the shardings of the step's plan.

    Args:
        step: The step.
        path: A checkpoint, or a directory of them.
        create: Makes such a state, or is one (abstract arrays will do).
        args: Arguments of ``create``.
        step_args: The step's other positional arguments.
        step_kwargs: Its keyword arguments.
        options: Those of `autoshard.checkpoint.load`.

    Returns:
        The state; its arrays belong to the step.
    """
    if callable(create):
        check_arguments(create, args)
        with planning():
            state = jax.eval_shape(create, *args)
    else:
        with planning():
            state = jax.eval_shape(lambda: create)
    leaves, tree = jax.tree.flatten(state)
    placed = step.place_state(leaves, (state, *step_args), step_kwargs)
    wanted = [_struct(leaf, placed[id(leaf)]) for leaf in leaves]
    found = load(checkpoint_of(path), jax.tree.unflatten(tree, wanted), **options)
    step.own(jax.tree.leaves(found))
    return found


def restore_objects(
    step: Parallelized,
    path: str | os.PathLike[str],
    create: Callable[..., Any],
    args: Sequence[Any],
    step_args: Sequence[Any],
    step_kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    """The same for NNX objects: they are made, emptied, and filled from the checkpoint.

    The checkpoint is that of ``nnx.state`` of the object, or of the tuple of objects.
    """
    from flax import nnx

    made = step.init(create, *args, step_args=step_args, step_kwargs=step_kwargs)
    several = isinstance(made, tuple)
    objects = made if several else (made,)
    states = [nnx.state(thing) for thing in objects]
    targets = [jax.tree.map(lambda leaf: _struct(leaf, leaf.sharding), state) for state in states]
    for leaf in jax.tree.leaves(states):
        leaf.delete()  # nothing is held twice
    target = tuple(targets) if several else targets[0]
    found = load(checkpoint_of(path), target, **options)
    for thing, state in zip(objects, found if several else (found,), strict=True):
        nnx.update(thing, state)
    step.own(jax.tree.leaves(found))
    return made


def checkpoint_of(path: str | os.PathLike[str]) -> Path:
    """The checkpoint itself, or the newest in a directory of them."""
    path = Path(path)
    return path if (path / "autoshard").is_dir() else (latest(path) or path)


def _struct(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    weak = bool(getattr(leaf, "weak_type", False))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)
