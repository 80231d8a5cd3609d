"""Propagation: the specs of a partially specified program, from the hints that it carries."""

from autoshard.recipes.propagate._engine import Propagated as Propagated
from autoshard.recipes.propagate._engine import propagate as propagate
from autoshard.recipes.propagate._hints import DimHint as DimHint
from autoshard.recipes.propagate._hints import Hint as Hint
from autoshard.recipes.propagate._hints import Hints as Hints
