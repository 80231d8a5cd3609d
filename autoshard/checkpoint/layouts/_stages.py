"""Steps of a rule: how its ops meet the tensors that its patterns match.

A rule matches many tensors, told apart by the keys in their names. A *grid* maps each combination
of keys to a *bundle*, one array per pattern of the rule. A stage turns a grid into another, and
back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoshard.checkpoint.layouts._lazy import LazyArray
from autoshard.checkpoint.layouts._op import Loss, Op, OpError

Keys = tuple[tuple[str, Any], ...]
"""Keys and their values, sorted by key."""

Grid = Mapping[Keys, Sequence[LazyArray]]

Note = Callable[[Sequence[LazyArray], Loss], None]
"""Called with the inputs of an op that loses something."""


def keys_of(items: Mapping[str, Any]) -> Keys:
    """Sorted keys."""
    return tuple(sorted(items.items()))


class Stage(ABC):
    """A step from one grid to another that can be taken back."""

    __slots__ = ()

    @abstractmethod
    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """The grid after the step.

        Args:
            grid: The grid before.
            note: Told of losses.

        Raises:
            OpError: An op does not take what it gets, or tensors are missing.
        """

    @abstractmethod
    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """The grid before the step; arguments as in `forward`."""

    def keys_forward(self, keys: frozenset[str]) -> frozenset[str]:
        """Which keys there are after the step.

        Raises:
            OpError: It needs one that is not there.
        """
        return keys


@dataclass(frozen=True, slots=True)
class Reverse(Stage):
    """A stage taken back.

    Args:
        stage: The stage.
        takes: Keys that taking it back needs, where it makes or takes keys.
        gives: Keys that are there instead of them.
    """

    stage: Stage
    takes: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Takes it back."""
        return self.stage.backward(grid, note)

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Takes it."""
        return self.stage.forward(grid, note)

    def keys_forward(self, keys: frozenset[str]) -> frozenset[str]:
        """The keys exchanged."""
        if not self.takes <= keys:
            raise OpError(f"needs the key {', '.join(sorted(self.takes - keys))}")
        return (keys - self.takes) | self.gives


@dataclass(frozen=True, slots=True)
class Each(Stage):
    """An op on every single array."""

    op: Op

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies it."""
        return self._all(grid, note, lambda: self.op)

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies its inverse."""
        return self._all(grid, note, self.op.inverse)

    def _all(self, grid: Grid, note: Note, op: Callable[[], Op]) -> dict[Keys, list[LazyArray]]:
        return {
            keys: [_applied(op(), [array], note)[0] for array in bundle]
            for keys, bundle in grid.items()
        }


@dataclass(frozen=True, slots=True)
class Bundle(Stage):
    """An op on the arrays of a bundle: splits a fused one, joins parts, compares tied ones."""

    op: Op

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies it."""
        return {keys: _applied(self.op, bundle, note) for keys, bundle in grid.items()}

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies its inverse."""
        inverse = self.op.inverse()
        return {keys: _applied(inverse, bundle, note) for keys, bundle in grid.items()}


@dataclass(frozen=True, slots=True)
class Parts(Stage):
    """Other ops for each array of a bundle.

    Args:
        ops: For each of them, ops in order.
    """

    ops: tuple[tuple[Op, ...], ...]

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies them."""
        return {keys: self._bundle(bundle, self.ops, note) for keys, bundle in grid.items()}

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies their inverses, the last one first."""
        inverses = tuple(tuple(op.inverse() for op in reversed(chain)) for chain in self.ops)
        return {keys: self._bundle(bundle, inverses, note) for keys, bundle in grid.items()}

    def _bundle(
        self, bundle: Sequence[LazyArray], chains: tuple[tuple[Op, ...], ...], note: Note
    ) -> list[LazyArray]:
        if len(bundle) != len(chains):
            raise OpError(f"has ops for {len(chains)} parts, but there are {len(bundle)}")
        results: list[LazyArray] = []
        for array, chain in zip(bundle, chains, strict=True):
            current = array
            for op in chain:
                (current,) = _applied(op, [current], note)
            results.append(current)
        return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect(Stage):
    """An op over a key: shards over ranks, layers over their numbers.

    Args:
        key: The key.
        op: Makes the op for a number of arrays; None where it has to find out.
        size: How many values the key has; None for as many as there are.
        at: At which values arrays lie, negative ones counted from the end; None for all.
    """

    key: str
    op: Callable[[int | None], Op]
    size: int | None = None
    at: tuple[int, ...] | None = None

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies it to the arrays that agree in all other keys."""
        groups: dict[Keys, dict[int, Sequence[LazyArray]]] = {}
        for keys, bundle in grid.items():
            value = dict(keys)[self.key]
            rest = tuple((k, v) for k, v in keys if k != self.key)
            groups.setdefault(rest, {})[value] = bundle
        results: dict[Keys, list[LazyArray]] = {}
        for rest, found in groups.items():
            order = self._order(found, rest)
            op = self.op(len(order))
            columns = zip(*(found[value] for value in order), strict=True)
            results[rest] = [_applied(op, list(column), note)[0] for column in columns]
        return results

    def _order(self, found: Iterable[int], rest: Keys) -> list[int]:
        values = sorted(found)
        if self.at is not None:
            expected = self._places()
        else:
            expected = list(range(self.size if self.size is not None else len(values)))
        if values != sorted(expected):
            where = ", ".join(f"{k}={v}" for k, v in rest)
            raise OpError(
                f"needs {self.key} = {_listed(expected)}, found {_listed(values)}"
                + (f" at {where}" if where else "")
            )
        return expected

    def _places(self) -> list[int]:
        assert self.at is not None
        if self.size is None and min(self.at) < 0:
            raise OpError(f"does not know the last {self.key}: write its size under axes")
        places = [at if at >= 0 else (self.size or 0) + at for at in self.at]
        # First and last are one where there is one.
        return list(dict.fromkeys(places))

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """Applies its inverse and lays the results out over the key."""
        count = len(self._places()) if self.at is not None else self.size
        inverse = self.op(count).inverse()
        results: dict[Keys, list[LazyArray]] = {}
        for keys, bundle in grid.items():
            columns = [_applied(inverse, [array], note) for array in bundle]
            places = self._places() if self.at is not None else list(range(len(columns[0])))
            for place, row in zip(places, zip(*columns, strict=True), strict=True):
                results[keys_of({**dict(keys), self.key: place})] = list(row)
        return results

    def keys_forward(self, keys: frozenset[str]) -> frozenset[str]:
        """The key goes."""
        if self.key not in keys:
            raise OpError(f"goes over {self.key}, which is no key of its pattern or axis")
        return keys - {self.key}


@dataclass(frozen=True, slots=True, kw_only=True)
class Derive(Stage):
    """One number for two: the layer, for the pipeline stage and the layer within it.

    Args:
        key: The number.
        stage: Key of the stage.
        local: Key of the number within the stage.
        sizes: How many there are in each stage, or one number where all are equal.
    """

    key: str
    stage: str
    local: str
    sizes: tuple[int, ...] | int

    def forward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """From two to one."""
        del note
        results: dict[Keys, list[LazyArray]] = {}
        for keys, bundle in grid.items():
            values = dict(keys)
            stage, local = values.pop(self.stage), values.pop(self.local)
            if not self._start(stage) + local < self._start(stage + 1):
                raise OpError(
                    f"{self.local}={local} lies outside {self.stage}={stage}, which has "
                    f"{self._start(stage + 1) - self._start(stage)}"
                )
            results[keys_of({**values, self.key: self._start(stage) + local})] = list(bundle)
        return results

    def backward(self, grid: Grid, note: Note) -> dict[Keys, list[LazyArray]]:
        """From one to two."""
        del note
        results: dict[Keys, list[LazyArray]] = {}
        for keys, bundle in grid.items():
            values = dict(keys)
            number = values.pop(self.key)
            stage = 0
            while number >= self._start(stage + 1):
                stage += 1
                if not isinstance(self.sizes, int) and stage >= len(self.sizes):
                    raise OpError(f"{self.key}={number} lies behind the last {self.stage}")
            local = number - self._start(stage)
            found = {**values, self.stage: stage, self.local: local}
            results[keys_of(found)] = list(bundle)
        return results

    def _start(self, stage: int) -> int:
        return stage * self.sizes if isinstance(self.sizes, int) else sum(self.sizes[:stage])

    def keys_forward(self, keys: frozenset[str]) -> frozenset[str]:
        """Two go, one comes."""
        if missing := {self.stage, self.local} - keys:
            raise OpError(f"derives {self.key} from {', '.join(sorted(missing))}, which is no key")
        return (keys - {self.stage, self.local}) | {self.key}


def _applied(op: Op, inputs: Sequence[LazyArray], note: Note) -> list[LazyArray]:
    try:
        results = op.apply(inputs)
    except OpError as error:
        names = list(dict.fromkeys(name for array in inputs for name in array.origins()))
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        kind = type(op).__name__.lower()
        raise OpError(f"{kind} of {', '.join(names[:2])}{more}: {error}") from error
    if (loss := op.loss([array.info for array in inputs])) is not None:
        note(inputs, loss)
    return results


def _listed(values: Sequence[int]) -> str:
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} … {values[-1]}"
    return ", ".join(map(str, values)) or "none"
