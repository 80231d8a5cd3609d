"""A layout applied to a checkpoint: another checkpoint, none of it read yet.

Everything that can be told from names, shapes and types is checked here: every tensor belongs to
one rule, every rule has tensors, every result is defined once, ops fit what they get, and no
element is lost unsaid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoshard.checkpoint._tensors import Index, Role, TensorInfo, TensorSource
from autoshard.checkpoint.layouts._lazy import LazyArray, Stored
from autoshard.checkpoint.layouts._names import PatternError
from autoshard.checkpoint.layouts._op import Loss, OpError
from autoshard.checkpoint.layouts._rules import Layout, Rule
from autoshard.checkpoint.layouts._stages import Keys, keys_of
from autoshard.errors import LayoutAmbiguityError, LayoutCoverageError, LayoutError


@dataclass(frozen=True, slots=True)
class LossyRead:
    """Something that a conversion forgets.

    Args:
        tensor: The first stored tensor that it concerns.
        loss: What.
    """

    tensor: str
    loss: Loss

    def __str__(self) -> str:
        return f"{self.tensor}: {self.loss.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The tensors of a source in another layout. It is a `TensorSource` itself.

    Args:
        layout: The layout.
        source: The source.
        arrays: The results.
        dropped: Tensors of the source that are left out → why.
        losses: What is forgotten beside them.
    """

    layout: Layout
    source: TensorSource
    arrays: Mapping[str, LazyArray]
    dropped: Mapping[str, str]
    losses: tuple[LossyRead, ...]

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All results. What a format said of the tensors they are made of is not true of them."""
        return {
            name: replace(array.info, attributes={}, role=Role.PARAMETER)
            for name, array in self.arrays.items()
        }

    def values(self) -> Mapping[str, Any]:
        """None: layouts speak of tensors."""
        return {}

    def metadata(self) -> Mapping[str, Any]:
        """What the source says of itself."""
        return self.source.metadata()

    def read(self, name: str, index: Index) -> np.ndarray[Any, Any]:
        """A piece of a result, contiguous and in memory of its own."""
        return np.array(self.arrays[name].read(index), order="C", copy=None)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()


def apply(layout: Layout, source: TensorSource) -> View:
    """Applies a layout to the tensors of a source, without reading them.

    Args:
        layout: The layout; its inverse, to write the foreign tensors of a tree.
        source: The source.

    Raises:
        LayoutCoverageError: Tensors without a rule, or rules without tensors.
        LayoutAmbiguityError: A tensor that two rules read or write.
        LayoutError: An op does not take what it gets.
    """
    infos = source.tensors()
    claims = _claims(layout, infos)
    arrays: dict[str, LazyArray] = {}
    owners: dict[str, Rule] = {}
    dropped: dict[str, str] = {}
    losses: dict[tuple[str, Loss], LossyRead] = {}

    def note(inputs: Any, loss: Loss) -> None:
        name = inputs[0].origins()[0]
        losses.setdefault((name, loss), LossyRead(name, loss))

    for rule in layout.rules:
        found = claims.get(id(rule), {})
        if rule.drops:
            names = [name for bundle in found.values() for name in bundle if name]
            dropped.update(dict.fromkeys(names, rule.reason))
            continue
        try:
            grid = _grid(rule, found, source, infos)
            for stage in rule.stages:
                grid = stage.forward(grid, note)
            results = _results(rule, grid)
        except (OpError, PatternError) as error:
            raise LayoutError(
                layout.name, f"the rule does not work: {error}", _hint(layout), rule.line
            ) from error
        for name, array in results:
            if name in arrays:
                rules = [str(owners[name]), str(rule)]
                raise LayoutAmbiguityError(layout.name, name, rules, "write")
            arrays[name], owners[name] = array, rule
    return View(
        layout=layout,
        source=source,
        arrays=arrays,
        dropped=dropped,
        losses=tuple(losses.values()),
    )


def check_names(layout: Layout, infos: Mapping[str, TensorInfo]) -> None:
    """Raises `LayoutError` unless each tensor has one rule, and each rule has tensors."""
    _claims(layout, infos)


def _hint(layout: Layout) -> str:
    given = ", ".join(f"{name}={value}" for name, value in layout.bindings.items())
    return f"check the rule and the quantities ({given or 'none'}); --set NAME=VALUE sets one"


_Found = dict[Keys, list[str | None]]


def _claims(layout: Layout, infos: Mapping[str, TensorInfo]) -> dict[int, _Found]:
    """Rule → keys → the names that it reads."""
    claims: dict[int, _Found] = {}
    unmatched: list[str] = []
    for name in infos:
        matches = [
            (rule, position, keys)
            for rule in layout.rules
            for position, pattern in enumerate(rule.sources)
            if (keys := pattern.match(name)) is not None
        ]
        if not matches:
            unmatched.append(name)
            continue
        if len(matches) > 1:
            rules = [str(rule) for rule, _, _ in matches]
            raise LayoutAmbiguityError(layout.name, name, rules, "read")
        rule, position, keys = matches[0]
        bundle = claims.setdefault(id(rule), {}).setdefault(
            keys_of(keys), [None] * len(rule.sources)
        )
        bundle[position] = name
    unused = [
        str(rule)
        for rule in layout.rules
        if id(rule) not in claims and rule.sources and not (rule.optional or rule.drops)
    ]
    if unmatched or unused:
        near = [pattern.text for rule in layout.rules for pattern in rule.sources]
        side = "tree" if layout.exports else "foreign checkpoint"
        raise LayoutCoverageError(layout.name, unmatched, unused, near, side)
    return claims


def _grid(
    rule: Rule, found: _Found, source: TensorSource, infos: Mapping[str, TensorInfo]
) -> dict[Keys, list[LazyArray]]:
    grid: dict[Keys, list[LazyArray]] = {}
    for keys, names in found.items():
        if None in names:
            lacking = rule.sources[names.index(None)]
            present = next(name for name in names if name is not None)
            raise OpError(f"finds {present}, but not {lacking.write(dict(keys))}")
        grid[keys] = [
            Stored(info=infos[name], source=source, name=name) for name in names if name is not None
        ]
    return grid


def _results(rule: Rule, grid: Mapping[Keys, Any]) -> list[tuple[str, LazyArray]]:
    results: list[tuple[str, LazyArray]] = []
    for keys, bundle in grid.items():
        if len(bundle) != len(rule.targets):
            raise OpError(f"makes {len(bundle)} arrays, but has {len(rule.targets)} names for them")
        for target, array in zip(rule.targets, bundle, strict=True):
            results.append((target.write(dict(keys)), array))
    return results
