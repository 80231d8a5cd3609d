"""Foreign checkpoint layouts: a language for them, and the ones that come along.

A layout maps the tensors of a foreign checkpoint to the leaves of a tree and back. It is applied to
names, shapes and types; data are read piece by piece when somebody asks for them.
"""

from autoshard.checkpoint.layouts._apply import View as View
from autoshard.checkpoint.layouts._apply import apply as apply
from autoshard.checkpoint.layouts._bindings import Known as Known
from autoshard.checkpoint.layouts._presets import get as get_layout
from autoshard.checkpoint.layouts._presets import names as layout_names
from autoshard.checkpoint.layouts._rules import Layout as Layout
from autoshard.checkpoint.layouts._rules import Rule as Rule
from autoshard.checkpoint.layouts._spec import Spec as Spec
from autoshard.checkpoint.layouts._spec import parse as parse
from autoshard.checkpoint.layouts._spec import parse_file as parse_file

__all__ = [
    "Known",
    "Layout",
    "Rule",
    "Spec",
    "View",
    "apply",
    "get_layout",
    "layout_names",
    "parse",
    "parse_file",
]
