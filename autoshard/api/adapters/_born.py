"""Variables that are born where a model's plan wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from autoshard.api._init import create_sharded
from autoshard.api._parallelized import Parallelized
from autoshard.api._planning import planning
from autoshard.api.adapters._storage import storage_axes, stored
from autoshard.errors import AutoshardError

Example = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and keyword arguments of a forward pass, after the variables."""


def born_sharded(
    model: Parallelized,
    create: Callable[..., Any],
    args: Sequence[Any],
    example: Callable[[Any], Example | None],
) -> Any:
    """Make a model's variables, each array in the sharding that its plan gives it.

    Args:
        model: The forward pass, whose first argument are the variables.
        create: Makes them.
        args: Arrays that ``create`` takes.
        example: From the abstract variables to the arguments of a forward pass by which they are
            planned. A batch that the mesh does not divide (people initialize with one example)
            stands for a larger one.

    Returns:
        The variables. What no example can be planned with is stored in parts by its sizes.
    """
    with planning():
        shapes = jax.eval_shape(create, *args)
    leaves, tree = jax.tree.flatten(shapes)
    axes = storage_axes(model.mesh, model.strategy)
    placed = {id(leaf): stored(leaf.shape, model.mesh, axes) for leaf in leaves}
    placed.update(_planned(model, shapes, example(shapes)))
    with planning():
        arrays = create_sharded(create, args, [placed[id(x)] for x in leaves], model.mesh)
    return jax.tree.unflatten(tree, arrays)


def _planned(model: Parallelized, shapes: Any, example: Example | None) -> dict[int, Any]:
    """Shardings of variables by a plan of the example, by identity; empty if it has none."""
    if example is None:
        return {}
    choices = [shapes]
    if isinstance(shapes, Mapping) and "params" in shapes and len(shapes) > 1:
        # A cache made from a whole sequence takes single tokens from then on.
        choices.append({"params": shapes["params"]})
    for variables in choices:
        for args, kwargs in _batches(example, model.mesh.size):
            try:
                return model.place_state(jax.tree.leaves(variables), (variables, *args), kwargs)
            except Exception as error:
                # An initialization may use inputs that no real call has; what is wrong with the
                # model itself, its first call will say.
                if not isinstance(error, AutoshardError | TypeError | ValueError):
                    raise
    return {}


def _batches(example: Example, n: int) -> Iterator[Example]:
    """The example with a batch that n devices can share, and as it is.

    The first comes first even where the second could be planned: of a batch of one, no op tells
    whether it is a batch.
    """
    arrays = [leaf for leaf in jax.tree.leaves(example) if getattr(leaf, "ndim", 0) > 0]
    size = arrays[0].shape[0] if arrays else 0
    wanted = math.lcm(size, n)

    def widen(leaf: Any) -> Any:
        if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] != size:
            return leaf
        return jax.ShapeDtypeStruct((wanted, *leaf.shape[1:]), leaf.dtype)

    if wanted != size:
        yield jax.tree.map(widen, example)
    yield example
