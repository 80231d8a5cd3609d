"""Which arguments of a call hold NNX objects, and which are plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.api._calls import Arguments
from autoshard.api.adapters.nnx._kinds import holds_graph
from autoshard.tracing import parameter_names


@dataclass(frozen=True, slots=True)
class Layout:
    """The arguments of calls that look alike.

    Args:
        n_args: Number of positional arguments.
        keywords: Names of keyword arguments.
        graph: For each argument, positional ones first, whether it holds NNX objects.
        names: Their names.
    """

    n_args: int
    keywords: tuple[str, ...]
    graph: tuple[bool, ...]
    names: tuple[str, ...]

    def fits(self, given: Arguments) -> bool:
        """Whether a call has as many arguments with the same names."""
        return len(given.args) == self.n_args and tuple(given.kwargs) == self.keywords

    def roots(self, given: Arguments) -> list[Any]:
        """The arguments that hold NNX objects."""
        return [x for x, holds in zip(_values(given), self.graph, strict=True) if holds]

    def data(self, given: Arguments) -> list[Any]:
        """The others."""
        return [x for x, holds in zip(_values(given), self.graph, strict=True) if not holds]

    @property
    def root_names(self) -> list[str]:
        """Names of the arguments that hold NNX objects."""
        return [name for name, holds in zip(self.names, self.graph, strict=True) if holds]

    @property
    def data_names(self) -> list[str]:
        """Names of the others."""
        return [name for name, holds in zip(self.names, self.graph, strict=True) if not holds]

    def assemble(
        self, roots: Sequence[Any], data: Sequence[Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the function, put together again."""
        some, others = iter(roots), iter(data)
        values = [next(some) if holds else next(others) for holds in self.graph]
        named = zip(self.keywords, values[self.n_args :], strict=True)
        return tuple(values[: self.n_args]), dict(named)


def layout_of(function: Callable[..., Any], given: Arguments) -> Layout:
    """Look at the arguments of a call.

    Args:
        function: The function.
        given: Its arguments, static ones taken out.

    Returns:
        Their layout.
    """
    every = parameter_names(function, len(given.template))
    # Static arguments leave no argument behind; the names of the others keep their order.
    inside = [name for name in every if name not in given.static]
    names = (inside if len(inside) == len(given.args) else every)[: len(given.args)]
    return Layout(
        n_args=len(given.args),
        keywords=tuple(given.kwargs),
        graph=tuple(holds_graph(value) for value in _values(given)),
        names=(*names, *given.kwargs),
    )


def _values(given: Arguments) -> list[Any]:
    return [*given.args, *given.kwargs.values()]
