"""Compiling ahead of time, in a process of its own, for devices that need not be there."""

from autoshard.lowering.ahead._compilation import Compilation as Compilation
from autoshard.lowering.ahead._compilation import Shortage as Shortage
from autoshard.lowering.ahead._compile import check_compiler as check_compiler
from autoshard.lowering.ahead._compile import compile_ahead as compile_ahead
from autoshard.lowering.ahead._compile import trial_compile as trial_compile
from autoshard.lowering.ahead._process import Limits as Limits
from autoshard.lowering.ahead._target import Target as Target
from autoshard.lowering.ahead._target import parse_target as parse_target
