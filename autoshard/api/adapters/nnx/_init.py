"""``step.init`` for steps that take NNX objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from autoshard.api.adapters.nnx._birth import Birth
from autoshard.api.adapters.nnx._kinds import is_graph_object

if TYPE_CHECKING:
    from autoshard.api._parallelized import Parallelized


def init_objects(
    step: Parallelized,
    create: Callable[..., Any],
    args: Sequence[Any],
    step_args: Sequence[Any],
    step_kwargs: Mapping[str, Any],
) -> Any:
    """Make the NNX objects that a step takes first, where they will live.

    Args:
        step: The step.
        create: Makes one object, the step's first argument, or a tuple of objects, its first
            arguments.
        args: Arguments of ``create``.
        step_args: The step's other positional arguments.
        step_kwargs: Its keyword arguments.

    Returns:
        What ``create`` returns.
    """
    birth = Birth(create, args, {})
    several = isinstance(birth.made, tuple) and all(map(is_graph_object, birth.made))
    first = birth.made if several else (birth.made,)
    leaves = abstract_leaves(first)
    placed = step.place_state(leaves, (*first, *step_args), step_kwargs)
    made, arrays = birth.run(lambda leaf: placed.get(id(leaf)), step.mesh)
    step.own(arrays)
    return made


def abstract_leaves(objects: Any) -> list[Any]:
    """The arrays of NNX objects, each once."""
    _, values = nnx.graph.flatten(objects, ref_index=nnx.graph.RefMap(), with_paths=False)
    return jax.tree.leaves(values)
