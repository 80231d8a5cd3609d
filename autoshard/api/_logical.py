"""Flax's logical axis names as pins: a model says ``embed``, rules say which mesh axis that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen, nnx
from flax.core import meta
from flax.linen import spmd
from jax.sharding import PartitionSpec

from autoshard.errors import LogicalAxisError
from autoshard.tracing import path_text

Rules = Mapping[str, Any] | Sequence[tuple[str, Any]]
"""Logical name → mesh axis, tuple of axes or None; as pairs a name may stand several times."""


def logical_pins(tree: Any, rules: Rules | None = None) -> dict[str, PartitionSpec]:
    """Turn the sharding metadata of a Flax model into pins.

    Rules have the meaning of `flax.linen.logical_to_mesh_axes`: they are gone through in order;
    the first that names a dimension of the array, and whose mesh axes the array does not use yet,
    decides the dimension. What no rule decides stays whole; only names that no rule speaks of
    are mesh axes themselves where the box says so (``nn.Partitioned``, NNX) or there are no rules.

    Args:
        tree: Variables with metadata: what ``jax.eval_shape(model.init, …)`` of a Linen model
            returns (``nn.Partitioned`` and ``nn.LogicallyPartitioned`` boxes), or the abstract
            ``nnx.state(model)`` of an NNX model, or the model itself.
        rules: Logical name → mesh axis, a tuple of axes, or None; a mapping, or pairs as Flax
            takes them. Rules that a box brings go behind these.

    Returns:
        Path of each array with metadata → its spec, for ``parallelize(..., pins=…)``. Pins find a
        path as the end of a longer one, with or without Flax's boxes around the array.

    Raises:
        LogicalAxisError: The rules are none, or an array's names do not fit it.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, autoshard
        >>> kernel = nn.with_logical_partitioning(nn.initializers.ones, ("embed", "mlp"))
        >>> model = nn.Dense(8, kernel_init=kernel)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 4)))
        >>> autoshard.logical_pins(variables, {"mlp": "model"})
        {'params/kernel': P(None, 'model')}
    """
    given = _pairs(rules)
    found: dict[str, PartitionSpec] = {}
    boxes = (meta.AxisMetadata, nnx.Variable)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda n: isinstance(n, boxes))
    for path, box in leaves:
        if not isinstance(box, boxes):
            continue
        names, own = _names(box)
        if names is None:
            continue
        text = path_text(path)
        shape = _shape(box)
        if shape is not None and len(names) != len(shape):
            raise LogicalAxisError(
                text, f"it has the names {names} for an array of shape {list(shape)}"
            )
        logical = isinstance(box, linen.LogicallyPartitioned)
        found[text] = _spec(text, names, (*given, *own), logical=logical)
    return found


def annotated_specs(variables: Mapping[str, nnx.Variable[Any]]) -> dict[str, PartitionSpec]:
    """The specs that NNX variables are annotated with; an annotation that says nothing is left out.

    Args:
        variables: The variables, by path.
    """
    found: dict[str, PartitionSpec] = {}
    for path, variable in variables.items():
        names, own = _names(variable)
        if names is not None and any(names):
            found[path] = _spec(path, names, own, logical=False)
    return found


def _pairs(rules: Rules | None) -> tuple[tuple[str, Any], ...]:
    """Rules in the order in which they apply."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules or ())
    for pair in pairs:
        if not _is_pair(pair):
            raise LogicalAxisError("rules", f"{pair!r} is no pair of a logical name and its axes")
        axes = pair[1] if isinstance(pair[1], tuple | list) else (pair[1],)
        if not all(axis is None or isinstance(axis, str) for axis in axes):
            raise LogicalAxisError("rules", f"{pair!r} names something that is no mesh axis")
    return tuple(
        (name, tuple(axes) if isinstance(axes, list) else axes) for name, axes in map(tuple, pairs)
    )


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)


def _names(box: Any) -> tuple[tuple[Any, ...] | None, tuple[tuple[str, Any], ...]]:
    """The names of a box's dimensions, and the rules that it brings."""
    if isinstance(box, nnx.Variable):
        data = box.get_metadata()
        # flax 0.12 calls it out_sharding; before that it was sharding_names, and sharding.
        keys = ("out_sharding", "sharding_names", "sharding")
        names = next((data[key] for key in keys if data.get(key)), None)
        rules = data.get("sharding_rules")
    else:
        names, rules = getattr(box, "names", None), getattr(box, "rules", None)
    names = getattr(names, "spec", names)  # a NamedSharding
    return None if names is None else tuple(names), _pairs(rules)


def _shape(box: Any) -> tuple[int, ...] | None:
    leaves = jax.tree.leaves(box)
    return getattr(leaves[0], "shape", None) if len(leaves) == 1 else None


def _spec(
    path: str, names: tuple[Any, ...], rules: tuple[tuple[str, Any], ...], *, logical: bool
) -> PartitionSpec:
    """The mesh axes of one array."""
    if not logical or not rules:
        ruled = {name for name, _ in rules}
        rules += tuple((n, n) for n in names if isinstance(n, str) and n not in ruled)
    try:
        spec = spmd.logical_to_mesh_axes(names, rules)
    except ValueError as error:
        raise LogicalAxisError(path, f"names {names}: {error}") from error
    return PartitionSpec() if spec is None else spec
