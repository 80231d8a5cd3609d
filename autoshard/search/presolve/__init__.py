"""Reductions that keep the optimum, and how they are applied; see docs/solver.md."""

from autoshard.search.presolve._arc import NoLabellingError as NoLabellingError
from autoshard.search.presolve._components import components as components
from autoshard.search.presolve._pipeline import REDUCTIONS as REDUCTIONS
from autoshard.search.presolve._pipeline import Presolved as Presolved
from autoshard.search.presolve._pipeline import presolve as presolve
from autoshard.search.presolve._restrict import restrict as restrict
