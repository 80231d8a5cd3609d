"""Reading calls of a model: whatever is no array is static, for models branch on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from autoshard.api._calls import Arguments, Call, Calls
from autoshard.errors import StaticArgumentError


class StaticLeaf:
    """A value that is part of a tree's structure.

    Args:
        value: The value, hashable.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StaticLeaf) or type(other.value) is not type(self.value):
            return False
        return other.value is self.value or bool(other.value == self.value)

    def __hash__(self) -> int:
        try:
            return hash((type(self.value), self.value))
        except TypeError as error:
            kind = type(self.value).__name__
            raise StaticArgumentError(
                "an argument", self.value, f"is a {kind}, which cannot be hashed"
            ) from error

    def __repr__(self) -> str:
        return repr(self.value)


jax.tree_util.register_static(StaticLeaf)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is something with a shape and an element type."""
    # Element types, such as jnp.float32, have both attributes as well.
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and not isinstance(leaf, type)


def arrays_only(tree: Any) -> Any:
    """The tree with every leaf that is no array made a part of its structure."""
    return jax.tree.map(lambda leaf: leaf if is_array(leaf) else StaticLeaf(leaf), tree)


def with_statics(tree: Any) -> Any:
    """Undo `arrays_only`."""
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, StaticLeaf) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, StaticLeaf),
    )


class ModelCall(Call):
    """A call some of whose leaves are static."""

    __slots__ = ()

    @property
    def args(self) -> tuple[Any, ...]:
        return arrays_only(self.given.args)

    @property
    def kwargs(self) -> dict[str, Any]:
        return arrays_only(self.given.kwargs)


class LeafStatics(Calls):
    """Reads calls of a function that computes with arrays and branches on everything else.

    ``model.apply(variables, x, train=True)`` may say ``if train:``, so each value of such an
    argument has its own program, as it has its own computation without one.
    """

    call_type: ClassVar[type[ModelCall]] = ModelCall

    def make(self, given: Arguments) -> Call:
        """Make a call of its arguments."""
        leaves, tree = self.flatten((given.args, given.kwargs))
        return self.call_type(given, leaves=leaves, tree=tree)

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """Arrays of a tree of arguments, and its structure with the rest."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        if len(arrays) == len(leaves):
            return leaves, (structure, ())
        fixed = tuple((i, StaticLeaf(leaf)) for i, leaf in enumerate(leaves) if not is_array(leaf))
        return arrays, (structure, fixed)

    def arrays(self, tree: Any) -> Any:
        """A tree of arguments as it is traced: with nothing but arrays as leaves."""
        return arrays_only(tree)

    def restore(self, tree: Any) -> Any:
        """Undo ``arrays``, inside the trace."""
        return with_statics(tree)

    def bind(self, function: Callable[..., Any], call: Call) -> Callable[..., Any]:
        """The function of a call's arrays, everything else filled in."""
        inner = super().bind(function, call)

        @functools.wraps(inner)
        def bound(*args: Any, **kwargs: Any) -> Any:
            return inner(*with_statics(args), **with_statics(kwargs))

        return bound
