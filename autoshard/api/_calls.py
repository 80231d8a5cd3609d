"""Reading the arguments of a call: static ones apart, arrays flat, and what tells calls apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import Tracer
from jax.sharding import PartitionSpec

from autoshard._compat import trace_context
from autoshard.errors import OptionError, StaticArgumentError
from autoshard.tracing import abstract, parameter_names

_ONE_VALUE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
_HOLE = object()
"""Stands for an array argument in the positional arguments of a call with static ones."""


class Arguments(NamedTuple):
    """The arguments of a call.

    Args:
        args: Its positional arguments without the static ones.
        kwargs: Its keyword arguments, likewise.
        static: Static arguments by name, defaults included.
        template: All positional arguments, with holes where ``args`` belong.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    static: dict[str, Any]
    template: tuple[Any, ...]


class Call:
    """One call.

    Args:
        given: Its arguments.
        leaves: Flat arrays among them.
        tree: What tells apart calls with the same arrays.

    Attributes:
        static: Static arguments by name, defaults included.
        context: JAX's settings that a trace depends on.
        known: Whether the state among the leaves was recognized as what the call before made.
    """

    forwards = False
    """Whether results that are an argument as it was stay that array: state in a graph does."""

    __slots__ = ("context", "given", "known", "leaves", "static", "tree")

    def __init__(self, given: Arguments, *, leaves: list[Any], tree: Any) -> None:
        self.given = given
        self.static = given.static
        self.leaves = leaves
        self.tree = tree
        self.context = trace_context()
        self.known = False

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of the function that is traced."""
        return self.given.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return self.given.kwargs

    @property
    def annotations(self) -> dict[str, PartitionSpec]:
        """What annotations of the arguments say about their sharding, by path."""
        return {}

    @property
    def structs(self) -> list[jax.ShapeDtypeStruct]:
        """The leaves as abstract arrays."""
        return [abstract(leaf, f"argument {i}") for i, leaf in enumerate(self.leaves)]

    @property
    def shape(self) -> Any:
        """What must be equal, beside the leaves' shapes, for the same program to run."""
        if not self.static:
            return (self.tree, self.context)
        # Types too, for 1 == 1.0 == True.
        static = [(name, type(value), value) for name, value in self.static.items()]
        return (self.tree, self.context, tuple(static))

    @property
    def key(self) -> Any:
        """Equal for calls that run the same program, hashable."""
        return (self.shape, tuple(map(leaf_key, self.leaves)))

    def finish(self, entry: Any, placed: Sequence[Any], results: Sequence[Any]) -> Any:
        """What the call returns.

        Args:
            entry: The entry that was run.
            placed: Arguments as they went into the program.
            results: Flat results of the program.
        """
        del placed
        return jax.tree.unflatten(entry.program.out_tree, results)


class Calls:
    """Reads calls of one function.

    Args:
        function: The function.
        static_argnums: Positions of static parameters.
        static_argnames: Names of static parameters.

    Raises:
        OptionError: The function has no such parameter.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: int | Sequence[int],
        static_argnames: str | Sequence[str],
    ) -> None:
        numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):  # some built-in functions have none
            self._signature = inspect.Signature()
        parameters = self._signature.parameters.values()
        positional = [p.name for p in parameters if p.kind in _ONE_VALUE[:2]]
        known = [p.name for p in parameters if p.kind in _ONE_VALUE]
        for number in numbers:
            if not -len(positional) <= number < len(positional):
                choice = ", ".join(f"{i} ({n})" for i, n in enumerate(positional)) or "()"
                raise OptionError("static_argnums", number, choice)
        for name in names:
            if name not in known:
                raise OptionError("static_argnames", name, ", ".join(map(repr, known)) or "()")
        self._static = tuple(dict.fromkeys([positional[n] for n in numbers] + list(names)))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call.

        Args:
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            The call.

        Raises:
            StaticArgumentError: A static argument cannot be hashed.
            TypeError: The function does not take such arguments.
        """
        return self.make(self.split(args, kwargs))

    def read_arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call from which static arguments are left out.

        Args:
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            The call.
        """
        return self.make(Arguments(tuple(args), dict(kwargs), {}, ()))

    def make(self, given: Arguments) -> Call:
        """Make a call of its arguments."""
        leaves, tree = self.flatten((given.args, given.kwargs))
        return Call(given, leaves=leaves, tree=tree)

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """Arrays of a tree of arguments, and what tells such trees apart."""
        return jax.tree.flatten(tree)

    def arrays(self, tree: Any) -> Any:
        """A tree of arguments as it is traced: with nothing but arrays as leaves."""
        return tree

    def restore(self, tree: Any) -> Any:
        """Undo ``arrays``, inside the trace."""
        return tree

    def split(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """Take static arguments out.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            The others, and the static ones.

        Raises:
            StaticArgumentError: A static argument cannot be hashed.
            TypeError: The function does not take such arguments.
        """
        if not self._static:
            return Arguments(tuple(args), dict(kwargs), {}, tuple(args))
        template, kwargs, static = self._split(tuple(args), kwargs)
        args = tuple(a for a, t in zip(args, template, strict=True) if t is _HOLE)
        return Arguments(args, dict(kwargs), static, template)

    def _split(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any], dict[str, Any]]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        static = {name: bound.arguments[name] for name in self._static}
        for name, value in static.items():
            try:
                hash(value)
            except TypeError as error:
                kind = type(value).__name__
                raise StaticArgumentError(
                    name, value, f"is {_article(kind)} {kind}, which cannot be hashed"
                ) from error
        parameters = self._signature.parameters.values()
        positional = [p.name for p in parameters if p.kind in _ONE_VALUE[:2]]
        template = tuple(
            value if i < len(positional) and positional[i] in static else _HOLE
            for i, value in enumerate(args)
        )
        return template, {k: v for k, v in kwargs.items() if k not in static}, static

    def bind(self, function: Callable[..., Any], call: Call) -> Callable[..., Any]:
        """The function of a call's arrays, static arguments filled in.

        Its parameters keep their names, so that paths say what the user wrote.

        Args:
            function: The function.
            call: A call of it.

        Returns:
            A function of ``call.args`` and ``call.kwargs``.
        """
        if not call.static:
            return function
        # Static arguments that were given by position are in the template; those that were left
        # out come from the function's own defaults when it is called by position.
        names = parameter_names(function, len(call.given.template))
        inside = {n for n, t in zip(names, call.given.template, strict=True) if t is not _HOLE}
        parameters = self._signature.parameters
        by_name = {
            name: value
            for name, value in call.static.items()
            if name not in inside and parameters[name].kind is not _ONE_VALUE[0]
        }

        @functools.wraps(function)
        def bound(*args: Any, **kwargs: Any) -> Any:
            arrays = iter(args)
            filled = [next(arrays) if t is _HOLE else t for t in call.given.template]
            return function(*filled, **kwargs, **by_name)

        free = [p for name, p in parameters.items() if name not in call.static]
        bound.__signature__ = self._signature.replace(parameters=free)  # type: ignore[attr-defined]
        return bound


def _article(noun: str) -> str:
    return "an" if noun[0].lower() in "aeiou" else "a"


def leaf_key(leaf: Any) -> Any:
    """What of an argument leaf selects a program."""
    if isinstance(leaf, Tracer):
        # Never equal to an array's: inside another trace the program is made differently.
        return (leaf.shape, leaf.dtype, leaf.weak_type, "tracer")
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return type(leaf)
    return (tuple(leaf.shape), dtype, bool(getattr(leaf, "weak_type", False)))
