"""YAML with line numbers: every mapping knows where it starts."""

from pathlib import Path
from typing import Any

import yaml

from autoshard.errors import LayoutSyntaxError


class Node(dict[str, Any]):
    """A mapping of a YAML file, with the line it starts at."""

    line: int = 0


class _Loader(yaml.SafeLoader):
    """Plain values alone: no tag can make it build an object."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Node:
    seen: set[Any] = set()
    for key, _ in node.value:
        name = loader.construct_object(key)
        if name in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {name!r} stands there twice", key.start_mark
            )
        seen.add(name)
    found: Any = loader.construct_mapping(node, deep=True)
    result = Node(found)
    result.line = node.start_mark.line + 1
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str, name: str) -> Node:
    """Parses a layout file.

    Args:
        text: Its text.
        name: What to call it in errors.

    Raises:
        LayoutSyntaxError: It is no YAML, or no mapping.
    """
    try:
        # The loader derives from SafeLoader.
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise LayoutSyntaxError(
            name,
            f"is no YAML: {problem}",
            "quote patterns: from: 'h.{l:d}.weight'",
            mark.line + 1 if mark else 0,
        ) from error
    if not isinstance(found, Node):
        raise LayoutSyntaxError(name, "holds no rules", "layout: NAME and rules: [...]")
    return found


def load_file(path: Path) -> Node:
    """Parses a layout file at a path."""
    return load(path.read_text(encoding="utf-8"), path.name)
