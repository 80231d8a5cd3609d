"""Proof of optimality through HiGHS; see docs/solver.md."""

from autoshard.search.exact._branch import ExactAnswer as ExactAnswer
from autoshard.search.exact._branch import peaks as peaks
from autoshard.search.exact._branch import solve_exact as solve_exact
from autoshard.search.exact._formulation import estimated_bytes as estimated_bytes
