"""Linen: module classes and instances whose ``init`` and ``apply`` run on a mesh."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.core import Tracer

from autoshard.api._leaf_statics import is_array
from autoshard.api._parallelized import Parallelized
from autoshard.api._planning import is_planning
from autoshard.api.adapters._apply import Applied, ApplyReader
from autoshard.api.adapters._born import Example, born_sharded
from autoshard.api.adapters._options import Options

_PLANNED = "_autoshard_parallelized"


def plan_class(cls: type[nn.Module], options: Options) -> type[nn.Module]:
    """A subclass of the same name whose ``init`` and ``apply`` are planned.

    As a submodule of another model it is what it was: the outermost ``apply`` is planned.

    Args:
        cls: The module class.
        options: What was asked for.

    Returns:
        The subclass.
    """

    def apply(self: Any, variables: Any, *args: Any, **kwargs: Any) -> Any:
        out, mutated = parallelized(self, cls, options)(variables, *args, **kwargs)
        return out if mutated is None else (out, mutated)

    def init(self: Any, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        return _init(self, cls, options, rngs, args, kwargs)

    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        # Without `nowrap` Linen would take them for methods that run inside a module's scope.
        "apply": nn.nowrap(functools.wraps(cls.apply)(apply)),
        "init": nn.nowrap(functools.wraps(cls.init)(init)),
        "parallelized": property(lambda self: parallelized(self, cls, options)),
    }
    make: Any = type(cls)
    return make(cls.__name__, (cls,), namespace)


def plan_instance(module: nn.Module, options: Options) -> nn.Module:
    """The same module as an instance of the planned class."""
    fields = [f.name for f in module.__dataclass_fields__.values() if f.init]
    values = {name: getattr(module, name) for name in fields if name != "parent"}
    return plan_class(type(module), options)(**values, parent=None)


def parallelized(module: Any, cls: type[nn.Module], options: Options) -> Parallelized:
    """The planned ``apply`` of a module; each instance has its own."""
    found = module.__dict__.get(_PLANNED)
    if found is None:
        function = _apply_function(module, cls)
        found = options.function(function, ApplyReader(function, (), ()))
        object.__setattr__(module, _PLANNED, found)
    return found


def _apply_function(module: nn.Module, cls: type[nn.Module]) -> Callable[..., Any]:
    """``cls.apply`` as a function of the variables; its parameters are named as in ``__call__``."""

    def apply(variables: Any, *args: Any, mutable: Any = False, **kwargs: Any) -> Applied:
        result = cls.apply(module, variables, *args, mutable=mutable, **kwargs)
        return Applied(result, None) if mutable is False else Applied(*result)

    apply.__name__ = apply.__qualname__ = cls.__name__
    kind = inspect.Parameter.POSITIONAL_ONLY
    own = list(inspect.signature(cls.__call__).parameters.values())[1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = ["variables", *(p.name for p in own if p.kind in positional)]
    unique = dict.fromkeys(names)  # a model may call an input "variables"
    apply.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in unique]
    )
    return apply


def _init(
    module: Any, cls: type[nn.Module], options: Options, rngs: Any, args: Any, kwargs: Any
) -> Any:
    plain = functools.partial(cls.init, module)
    inputs = (rngs, args, kwargs)
    leaves, tree = jax.tree.flatten(inputs)
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    if is_planning() or traced or jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return plain(rngs, *args, **kwargs)
    arrays = [leaf for leaf in leaves if is_array(leaf)]

    def create(*given: Any) -> Any:
        rest = iter(given)
        filled = [next(rest) if is_array(leaf) else leaf for leaf in leaves]
        rngs, args, kwargs = jax.tree.unflatten(tree, filled)
        return plain(rngs, *args, **kwargs)

    def example(shapes: Any) -> Example:
        collections = [name for name in shapes if name != "params"]
        streams = rngs if isinstance(rngs, dict) else {"params": rngs}
        forward = {k: v for k, v in kwargs.items() if k not in ("mutable", "capture_intermediates")}
        return args, {**forward, "rngs": streams, "mutable": collections or False}

    return born_sharded(parallelized(module, cls, options), create, arrays, example)
