"""Layouts by name: the YAML files that come along, other YAML files, and those made of code."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from autoshard.checkpoint.layouts._spec import Spec, parse, parse_file
from autoshard.errors import UnknownLayoutError

_FOLDER = resources.files("autoshard.checkpoint.layouts.presets")

ALIASES: Mapping[str, str] = MappingProxyType(
    {"hf_mistral": "hf_llama", "flax_mistral": "flax_llama"}
)
"""Families whose files have the same layout as another's."""


def names() -> tuple[str, ...]:
    """Every layout that comes along."""
    files = [entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir()
             if entry.name.endswith(".yaml")]  # fmt: skip
    return tuple(sorted([*files, *ALIASES]))


def get(name: str) -> Spec:
    """A layout by its name, or from a YAML file.

    Args:
        name: One of `names()`, or a path that ends in ``.yaml`` or ``.yml``.

    Raises:
        UnknownLayoutError: There is no such layout or file.
        LayoutSyntaxError: The file is not understood.
    """
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return parse_file(Path(name))
    file = _FOLDER / f"{ALIASES.get(name, name)}.yaml"
    if name not in names():
        raise UnknownLayoutError(name, names())
    return parse(file.read_text(encoding="utf-8"), name)
