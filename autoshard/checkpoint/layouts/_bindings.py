"""Quantities of a layout: given, from the model's config file, or read off names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autoshard.checkpoint._tensors import TensorInfo
from autoshard.checkpoint.layouts._expressions import ExpressionError, evaluate
from autoshard.errors import LayoutBindingError, LayoutSyntaxError

Side = Literal["foreign", "tree"]
"""Which tensors are there: those of a foreign checkpoint (import) or of a tree (export)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What quantities are found in.

    Args:
        side: What the tensors are.
        infos: The tensors that are there.
        config: The model's configuration, such as a `config.json`.
        given: Quantities that the user has set.
    """

    side: Side
    infos: Mapping[str, TensorInfo]
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])


def resolve(layout: str, line: int, written: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Values of all quantities.

    Args:
        layout: The layout's name.
        line: Where they are written.
        written: Name → a number, an expression, or where to look: ``config``, ``foreign``,
            ``tree``, ``foreign_has``, ``tree_has``, ``foreign_count``, ``tree_count``,
            ``default``; ``hint`` says what to give where nothing tells it.
        known: Where to look.

    Raises:
        LayoutBindingError: Something is needed and nowhere to be found.
        LayoutSyntaxError: The way it is written is not understood.
    """
    if unknown := set(known.given) - set(written):
        names = ", ".join(written) or "nothing"
        raise LayoutSyntaxError(
            layout, f"has no quantity {', '.join(sorted(unknown))}", f"--set knows {names}"
        )
    values: dict[str, Any] = {}
    for name, how in written.items():
        if name in known.given:
            values[name] = known.given[name]
        elif isinstance(how, Mapping):
            values[name] = _look(layout, line, name, how, known, values)
        else:
            values[name] = _expression(layout, line, name, how, values)
    return values


def _expression(layout: str, line: int, name: str, how: Any, values: Mapping[str, Any]) -> int:
    try:
        return evaluate(how, values)
    except ExpressionError as error:
        raise LayoutSyntaxError(
            layout, f"{name} cannot be evaluated: {error}", f"{name}: 8, or {{config: …}}", line
        ) from error


_FORMS = (
    *("config", "foreign", "tree", "foreign_has", "tree_has", "foreign_count", "tree_count"),
    *("default", "text", "hint"),
)


def _look(
    layout: str,
    line: int,
    name: str,
    how: Mapping[str, Any],
    known: Known,
    values: Mapping[str, Any],
) -> Any:
    if unknown := set(how) - set(_FORMS):
        raise LayoutSyntaxError(
            layout,
            f"{name} is to be found by {', '.join(sorted(unknown))}, which is unknown",
            f"there are {', '.join(_FORMS)}",
            line,
        )
    looked: list[str] = []
    keys = how.get("config", [])
    for key in [keys] if isinstance(keys, str) else keys:
        looked.append(f"{key} of the config")
        if (value := _nested(known.config, key)) is not None:
            return int(value) if isinstance(value, bool) else value
    found = _from_tensors(how, known, looked)
    if found is None and "default" in how:
        default = how["default"]
        found = default if how.get("text") else _expression(layout, line, name, default, values)
    if found is None:
        raise LayoutBindingError(layout, name, looked, str(how.get("hint", "")))
    return found


def _nested(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _from_tensors(how: Mapping[str, Any], known: Known, looked: list[str]) -> Any:
    if (dim := how.get(known.side)) is not None:
        looked.append(f"tensors like {dim['match']}")
        for path, info in known.infos.items():
            if re.search(dim["match"], path) and -len(info.shape) <= dim["dim"] < len(info.shape):
                return info.shape[dim["dim"]]
    if (has := how.get(f"{known.side}_has")) is not None:
        pattern, yes, no = (has, 1, 0) if isinstance(has, str) else has
        return yes if any(re.search(pattern, path) for path in known.infos) else no
    if (count := how.get(f"{known.side}_count")) is not None:
        looked.append(f"names like {count}")
        numbers = [int(m[1]) for path in known.infos if (m := re.search(count, path))]
        return max(numbers) + 1 if numbers else None
    return None
