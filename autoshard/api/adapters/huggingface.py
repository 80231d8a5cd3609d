"""Hugging Face: `FlaxPreTrainedModel` classes and instances whose ``__call__`` runs on a mesh."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from autoshard.api._parallelized import Parallelized
from autoshard.api._planning import is_planning
from autoshard.api.adapters._apply import Applied, ApplyReader
from autoshard.api.adapters._born import Example, born_sharded
from autoshard.api.adapters._options import Options

_PLANNED = "_autoshard_parallelized"


def plan_class(cls: type, options: Options) -> type:
    """A subclass of the same name whose calls are planned and whose weights are born sharded.

    Args:
        cls: The model class.
        options: What was asked for.

    Returns:
        The subclass.
    """

    def call(self: Any, *args: Any, params: Any = None, **kwargs: Any) -> Any:
        if is_planning():
            return cls.__call__(self, *args, params=params, **kwargs)  # type: ignore[operator]
        model = parallelized(self, cls, options)
        given = self.params if params is None else params
        out = model(given, *args, **kwargs).out
        if params is None:
            _settle(self, model, given)
        return out

    def init_weights(self: Any, rng: Any, input_shape: Any, params: Any = None) -> Any:
        plain = functools.partial(cls.init_weights, self)  # type: ignore[attr-defined]
        inside = is_planning() or isinstance(jnp.zeros(()), Tracer)
        if inside or params is not None:  # the second: weights that were loaded, on the host
            return plain(rng, input_shape, params)
        model = parallelized(self, cls, options)

        def example(shapes: Any) -> Example:
            del shapes
            name = self.main_input_name
            dtype = jnp.int32 if name.endswith("ids") else jnp.float32
            return (jax.ShapeDtypeStruct(tuple(input_shape), dtype),), {}

        return born_sharded(model, lambda key: plain(key, input_shape), (rng,), example)

    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__call__": functools.wraps(cls.__call__)(call),  # type: ignore[operator]
        "init_weights": functools.wraps(cls.init_weights)(init_weights),  # type: ignore[attr-defined]
        "parallelized": property(lambda self: parallelized(self, cls, options)),
    }
    return type(cls)(cls.__name__, (cls,), namespace)


def plan_instance(model: Any, options: Options) -> Any:
    """The same model, with the same weights, as an instance of the planned class."""
    planned = copy.copy(model)
    planned.__class__ = plan_class(type(model), options)
    return planned


def parallelized(model: Any, cls: type, options: Options) -> Parallelized:
    """The planned ``__call__`` of a model; each instance has its own."""
    found = model.__dict__.get(_PLANNED)
    if found is None:
        function = _call_function(model, cls)
        found = options.function(function, ApplyReader(function, (), ()))
        model.__dict__[_PLANNED] = found
    return found


def _call_function(model: Any, cls: type) -> Callable[..., Any]:
    """``cls.__call__`` as a function of the weights; its parameters keep their names."""

    def call(params: Any, *args: Any, **kwargs: Any) -> Applied:
        return Applied(cls.__call__(model, *args, params=params, **kwargs), None)  # type: ignore[operator]

    call.__name__ = call.__qualname__ = cls.__name__
    kind = inspect.Parameter.POSITIONAL_ONLY
    own = list(inspect.signature(cls.__call__).parameters)[1:]  # type: ignore[operator]
    names = ["params", *(name for name in own if name not in ("params", "kwargs"))]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    return call


def _settle(model: Any, planned: Parallelized, params: Any) -> None:
    """Keep the model's own weights where the plan wants them, so that they move once."""
    leaves, tree = jax.tree.flatten(params)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return
    moved = planned.placed_like_last(leaves)
    if any(new is not old for new, old in zip(moved, leaves, strict=True)):
        model._params = jax.tree.unflatten(tree, moved)
