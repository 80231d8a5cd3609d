"""The search engine: labellings of graphs with memory limits, and certificates of their quality.

It knows neither ops nor chips nor JAX: costs, memory and edges go in, labels and a bound come out.
See docs/solver.md.
"""

from autoshard.search._evaluate import Evaluation as Evaluation
from autoshard.search._evaluate import evaluate as evaluate
from autoshard.search._evaluate import usage_over_time as usage_over_time
from autoshard.search._evaluate import validate as validate
from autoshard.search._infeasible import Infeasibility as Infeasibility
from autoshard.search._infeasible import explain_infeasible as explain_infeasible
from autoshard.search._iopddl import read_iopddl as read_iopddl
from autoshard.search._iopddl import write_iopddl as write_iopddl
from autoshard.search._options import Progress as Progress
from autoshard.search._options import Solution as Solution
from autoshard.search._options import SolverOptions as SolverOptions
from autoshard.search._oracle import brute_force as brute_force
from autoshard.search._problem import OverlapTerm as OverlapTerm
from autoshard.search._problem import PayOnceGroup as PayOnceGroup
from autoshard.search._problem import Problem as Problem
from autoshard.search._protocol import Solver as Solver
from autoshard.search._protocol import referee as referee
from autoshard.search._solve import solve as solve
from autoshard.search.errors import MemoryBudgetError as MemoryBudgetError
from autoshard.search.errors import ProblemError as ProblemError
from autoshard.search.errors import ProblemFormatError as ProblemFormatError
from autoshard.search.errors import SearchError as SearchError
