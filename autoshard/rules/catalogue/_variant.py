"""An example of a primitive: a function that makes it, and the shapes to trace it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.rules.oracle import Op, op_of

Example = tuple[Any, ...]
"""A function of jax and the avals of its arguments."""
Table = Mapping[str, Mapping[str, Example]]
"""Primitive → title → example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way in which a primitive is used.

    Args:
        primitive: Its name in the jaxpr.
        title: What sets it apart from the primitive's other variants, in a word or two.
        function: Makes it, perhaps among others.
        avals: Shapes and types of the function's arguments.
        runs: Whether the op can be run by itself; collectives cannot, outside their mesh.
    """

    primitive: str
    title: str
    function: Callable[..., Any]
    avals: tuple[Any, ...]
    runs: bool = True

    @property
    def name(self) -> str:
        """Unique in the catalogue."""
        return f"{self.primitive} ({self.title})"

    def op(self) -> Op:
        """The op, traced, with its registered rule.

        Returns:
            The last equation of the primitive that the function makes.

        Raises:
            LookupError: The function does not make the primitive.
        """
        jaxpr = jax.make_jaxpr(self.function)(*self.avals).jaxpr
        found = [e for e in _equations(jaxpr) if str(e.primitive) == self.primitive]
        if not found:
            raise LookupError(f"{self.name}: no such equation in {jaxpr}")
        return op_of(found[-1])


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    """A float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape: int) -> jax.ShapeDtypeStruct:
    """An int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def u32(*shape: int) -> jax.ShapeDtypeStruct:
    """A uint32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def c64(*shape: int) -> jax.ShapeDtypeStruct:
    """A complex64 array."""
    return jax.ShapeDtypeStruct(shape, jnp.complex64)


def bools(*shape: int) -> jax.ShapeDtypeStruct:
    """A boolean array."""
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def keys(*shape: int) -> jax.ShapeDtypeStruct:
    """An array of PRNG keys."""
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape))
