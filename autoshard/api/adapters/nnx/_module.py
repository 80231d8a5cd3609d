"""NNX module classes: instances are born sharded, and their ``__call__`` runs on the mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from autoshard.api._leaf_statics import LeafStatics
from autoshard.api._parallelized import Parallelized
from autoshard.api._planning import is_planning
from autoshard.api.adapters._options import Options
from autoshard.api.adapters._storage import storage_axes, stored
from autoshard.api.adapters.nnx._birth import Birth
from autoshard.api.adapters.nnx._init import abstract_leaves
from autoshard.api.adapters.nnx._reader import GraphReader


def plan_class(cls: type[nnx.Module], options: Options) -> type[nnx.Module]:
    """A subclass of the same name.

    Its instances are made in one compiled program whose results are cut: by the plan of a call
    with ``options.example``, or else by size. The first planned call moves what it wants
    elsewhere, and the module keeps it there. Inside another module, a trace or a parallelized
    step, class and instances are what they were: the outermost call is planned.

    Args:
        cls: The module class.
        options: What was asked for.

    Returns:
        The subclass.
    """
    meta = type(cls)
    # A module may have methods alone; its class is callable in any case.
    forward = next((vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)), None)
    planned = None if forward is None else _forward(cls, forward, options)

    def construct(klass: Any, *args: Any, **kwargs: Any) -> Any:
        if planned is None or _is_inside():
            return meta.__call__(klass, *args, **kwargs)
        return _born(klass, meta, planned, options, args, kwargs)

    namespace: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "parallelized": planned,
    }
    if planned is not None and forward is not None:
        namespace["__call__"] = _method(planned, forward)
    made: Any = type(meta.__name__, (meta,), {"__call__": construct})
    is_pytree = getattr(cls, "_pytree__is_pytree", True)
    return made(cls.__name__, (cls,), namespace, **({} if is_pytree else {"pytree": False}))


def plan_instance(module: nnx.Module, options: Options) -> nnx.Module:
    """An instance of the planned class with the same variables as a module."""
    planned = object.__new__(plan_class(type(module), options))
    vars(planned).update(vars(module))
    return planned


def _forward(cls: type, forward: Any, options: Options) -> Parallelized:
    @functools.wraps(forward)
    def function(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    function.__name__ = cls.__name__
    planned = options.function(function, LeafStatics(function, (), ()))
    planned.read_with(GraphReader(function, LeafStatics(function, (), ())))
    return planned


def _method(planned: Parallelized, forward: Any) -> Any:
    @functools.wraps(forward)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return planned(self, *args, **kwargs)

    return call


def _is_inside() -> bool:
    """Whether a module is being made as a part of something that is traced as a whole."""
    if is_planning() or jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return True
    return isinstance(jnp.zeros(()), Tracer)


def _born(
    klass: Any, meta: type, planned: Parallelized, options: Options, args: Any, kwargs: Any
) -> Any:
    create = functools.wraps(klass)(functools.partial(meta.__call__, klass))
    birth = Birth(create, args, kwargs)
    leaves = abstract_leaves(birth.made)
    if options.example is not None:
        placed = planned.place_state(leaves, (birth.made, *options.example), {})
    else:
        axes = storage_axes(planned.mesh, planned.strategy)
        placed = {
            id(leaf): stored(() if _is_key(leaf) else leaf.shape, planned.mesh, axes)
            for leaf in leaves
        }
    made, _ = birth.run(lambda leaf: placed.get(id(leaf)), planned.mesh)
    return made


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
