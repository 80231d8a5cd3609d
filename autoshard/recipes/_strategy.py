"""The strategy grammar: ``term+term@axis`` on a mesh of named axes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from autoshard.errors import StrategyError
from autoshard.plan import MeshShape


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a strategy with the axes that it uses as one.

    Args:
        name: Name of the recipe.
        axes: Mesh axes, major to minor.
    """

    name: str
    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}@{','.join(self.axes)}"


def parse_strategy(text: object, mesh: MeshShape, known: Collection[str]) -> tuple[Term, ...]:
    """Read a strategy and give each term its axes.

    With k terms on n ≥ k axes, the last k-1 terms take one axis each from the right and the first
    takes the rest, as one. ``term@axis`` or ``term@a,b`` says it explicitly; the other terms then
    share the axes that are left, by the same rule.

    Args:
        text: The strategy, such as ``zero3+tensor`` or ``dp@data+tensor@model``.
        mesh: The mesh.
        known: Names of the recipes there are.

    Returns:
        The terms in the order in which they were written.

    Raises:
        StrategyError: An unknown term or axis, an axis used twice, or more terms than axes.
    """
    if not isinstance(text, str) or not text.strip():
        raise StrategyError(text, mesh.text, "a strategy is a text of terms joined by '+'")
    parts: list[tuple[str, tuple[str, ...] | None]] = []
    for part in text.split("+"):
        name, at, axes = part.strip().partition("@")
        if name not in known:
            raise StrategyError(
                text, mesh.text, f"{name!r} is no strategy; there are {', '.join(sorted(known))}"
            )
        if at and not axes.strip():
            raise StrategyError(text, mesh.text, f"{part.strip()!r} names no axis after '@'")
        parts.append((name, tuple(a.strip() for a in axes.split(",")) if at else None))
    named = [axis for _, axes in parts if axes is not None for axis in axes]
    for axis in named:
        if axis not in mesh.axes:
            raise StrategyError(
                text, mesh.text, f"{axis!r} is no axis; the mesh has {', '.join(mesh.names)}"
            )
        if named.count(axis) > 1:
            raise StrategyError(text, mesh.text, f"axis {axis!r} is given to two terms")
    free = [axis for axis in mesh.names if axis not in named]
    open_terms = [i for i, (_, axes) in enumerate(parts) if axes is None]
    if len(open_terms) > len(free):
        if named:
            terms = " and ".join(repr(parts[i][0]) for i in open_terms)
            left = f"{len(free)} of the {len(mesh.names)} axes left: {', '.join(free) or 'none'}"
            problem = f"an axis is needed for each of {terms}, {left}"
        else:
            problem = f"{len(parts)} terms need as many axes, and the mesh has {len(mesh.names)}"
        raise StrategyError(text, mesh.text, problem)
    assigned = dict(enumerate(axes for _, axes in parts))
    for i in reversed(open_terms[1:]):
        assigned[i] = (free.pop(),)
    if open_terms:
        assigned[open_terms[0]] = tuple(free)
    return tuple(Term(name, assigned[i] or ()) for i, (name, _) in enumerate(parts))
