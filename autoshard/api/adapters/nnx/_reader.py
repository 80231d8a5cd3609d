"""Reading calls with NNX objects: split them once, then only look whether they are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.api._calls import Arguments, Call, Calls
from autoshard.api.adapters.nnx._call import GraphCall
from autoshard.api.adapters.nnx._layout import Layout, layout_of
from autoshard.api.adapters.nnx._pure import PureFunction
from autoshard.api.adapters.nnx._structure import Structure
from autoshard.errors import UnhashableTreeError

_REMEMBERED = 4
"""Splits that are remembered: a step that alternates between two models finds both again."""


@dataclass(frozen=True, slots=True)
class _Split:
    layout: Layout
    structure: Structure
    token: int


class GraphReader:
    """Reads calls of a function that takes NNX objects.

    Args:
        function: The function.
        plain: Reads everything else.
    """

    def __init__(self, function: Callable[..., Any], plain: Calls) -> None:
        self.plain = plain
        self._function = function
        self._splits: list[_Split] = []
        self._tokens: dict[Any, int] = {}

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call.

        Args:
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            The call.

        Raises:
            GraphStateError: A variable cannot be placed.
            StaticArgumentError: A static argument cannot be hashed.
        """
        return self._make(self.plain.split(args, kwargs))

    def read_arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Read a call from which static arguments are left out."""
        return self._make(Arguments(tuple(args), dict(kwargs), {}, ()))

    def bind(self, function: Callable[..., Any], call: Call) -> Callable[..., Any]:
        """The pure function of a call's arrays."""
        if not isinstance(call, GraphCall):
            return self.plain.bind(function, call)
        return pure_function(function, call, self.plain)

    def _make(self, given: Arguments) -> Call:
        for split in self._splits:
            if not split.layout.fits(given):
                continue
            roots = split.layout.roots(given)
            objects = split.structure.objects(roots)
            if objects is not None:
                return self._call(given, split, roots, objects)
        layout = layout_of(self._function, given)
        if not any(layout.graph):
            return self.plain.make(given)
        roots = layout.roots(given)
        structure = Structure(layout.root_names, roots)
        try:
            token = self._tokens.setdefault((structure.key, layout), len(self._tokens))
        except TypeError as error:
            raise UnhashableTreeError(str(error)) from error
        split = _Split(layout, structure, token)
        self._splits = [split, *self._splits[: _REMEMBERED - 1]]
        objects, _ = structure.split(roots)
        return self._call(given, split, roots, objects)

    def _call(
        self, given: Arguments, split: _Split, roots: list[Any], objects: Sequence[Any]
    ) -> Call:
        data = split.layout.data(given)
        return GraphCall(
            given,
            layout=split.layout,
            structure=split.structure,
            token=split.token,
            objects=objects,
            roots=roots,
            data=self.plain.flatten(data),
            data_trees=lambda: self.plain.arrays(data),
        )


def pure_function(function: Callable[..., Any], call: GraphCall, plain: Calls) -> PureFunction:
    """The pure function of a call with NNX objects.

    Args:
        function: The function.
        call: A call of it.
        plain: Reads the arguments without NNX objects.
    """
    layout = call.layout

    def assemble(
        roots: Sequence[Any], data: Sequence[Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return layout.assemble(roots, plain.restore(list(data)))

    # Not what `plain` makes of it: that would take the NNX objects apart as trees.
    inner = Calls.bind(plain, function, call)
    return PureFunction(inner, call.structure, assemble, layout.data_names)
