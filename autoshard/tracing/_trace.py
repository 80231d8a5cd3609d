"""Tracing a function to a `Program` without running or allocating anything."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from autoshard.errors import ArgumentError
from autoshard.tracing._build import Builder
from autoshard.tracing._program import Program


def trace(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    keep_custom: bool = False,
    while_trips: int = 1,
) -> Program:
    """Trace a function on abstract values.

    Args:
        function: Any JAX-traceable function.
        args: Positional arguments: trees of arrays, `jax.ShapeDtypeStruct` or scalars. Only
            shapes, dtypes and weak types are looked at.
        kwargs: Keyword arguments, likewise.
        keep_custom: Keep calls with custom derivatives, for a function that is differentiated
            afterwards.
        while_trips: Trip count to assume for ``while`` loops in execution counts.

    Returns:
        The program, without dead code. Closed-over arrays are its last arguments.

    Raises:
        ArgumentError: An argument leaf is not an array.
    """
    kwargs = dict(kwargs or {})
    leaves, in_tree = jax.tree_util.tree_flatten_with_path((tuple(args), kwargs))
    names = parameter_names(function, len(args))
    paths = [argument_path(path, names) for path, _ in leaves]
    structs = [abstract(leaf, path) for (_, leaf), path in zip(leaves, paths, strict=True)]
    abstract_args, abstract_kwargs = jax.tree_util.tree_unflatten(in_tree, structs)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*abstract_args, **abstract_kwargs)
    result_leaves, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    result_paths = [path_text(path) for path, _ in result_leaves]
    jaxpr, used_inputs = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True
    )
    del used_inputs  # instantiate keeps every argument in its place
    builder = Builder(keep_custom=keep_custom, while_trips=while_trips)
    body, arguments, results = builder.top(jaxpr, closed.consts, paths, result_paths)
    ops = tuple(op for op in builder.ops if op is not None)
    assert len(ops) == len(builder.ops), "a reserved op was never filled in"
    return Program(
        ops=ops,
        values=tuple(builder.values),
        body=body,
        arguments=tuple(arguments),
        results=tuple(results),
        in_tree=in_tree,
        out_tree=out_tree,
        captured=tuple(builder.captured),
        name=_name(function),
    )


def _name(function: Any) -> str:
    """What to call a function; what `functools.partial` wraps gives it its name."""
    while not hasattr(function, "__name__") and isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def abstract(leaf: Any, path: str) -> jax.ShapeDtypeStruct:
    """Shape, dtype and weak type of an argument leaf; its sharding is left behind.

    Args:
        leaf: An array, scalar or `jax.ShapeDtypeStruct`.
        path: Its path, for the error.

    Returns:
        The abstract leaf.

    Raises:
        ArgumentError: The leaf is not something that JAX computes with.
    """
    number = isinstance(leaf, bool | int | float | complex)
    if number and not isinstance(leaf, np.generic):  # np.float64 is a float, but strongly typed
        dtype = jax.dtypes.canonicalize_dtype(np.result_type(type(leaf)))
        return jax.ShapeDtypeStruct((), dtype, weak_type=not isinstance(leaf, bool))
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None or not _is_computable(dtype):
        raise ArgumentError(path, leaf)
    dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(shape, dtype, weak_type=bool(getattr(leaf, "weak_type", False)))


def _is_computable(dtype: Any) -> bool:
    """Whether JAX has arrays of a type: not of strings, objects, dates and records."""
    if not isinstance(dtype, np.dtype) or dtype == jax.dtypes.float0:
        return True  # an extended type, such as that of PRNG keys; the type of no gradient
    return dtype.kind not in "OSUMm" and dtype.names is None


def parameter_names(function: Callable[..., Any], n_args: int) -> list[str]:
    """Names under which the positional arguments appear in paths."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[i] if i < len(names) else f"arg{i}" for i in range(n_args)]


def argument_path(path: Sequence[Any], names: Sequence[str]) -> str:
    """The path of a leaf of ``(args, kwargs)``: parameter name first, parts joined by ``/``."""
    which, key, *rest = path
    first = names[int(key.idx)] if which.idx == 0 else str(key.key)
    return "/".join([first, *map(_part, rest)])


def path_text(path: Sequence[Any]) -> str:
    """A key path as text: parts joined by ``/``; the empty path is ``result``."""
    return "/".join(map(_part, path)) or "result"


def _part(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)
