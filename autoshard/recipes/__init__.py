"""Recipes: strategies that people ask for by name, derived from a program's factors."""

from autoshard.recipes._apply import RECIPES as RECIPES
from autoshard.recipes._apply import Recipe as Recipe
from autoshard.recipes._apply import plan_by_recipe as plan_by_recipe
from autoshard.recipes._context import Context as Context
from autoshard.recipes._flow import Flow as Flow
from autoshard.recipes._strategy import Term as Term
from autoshard.recipes._strategy import parse_strategy as parse_strategy
from autoshard.recipes._sums import REDUCE_DTYPES as REDUCE_DTYPES
