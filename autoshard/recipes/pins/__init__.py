"""Pins: specs that users give to arguments, results and values, and that hold in every strategy."""

from autoshard.recipes.pins._annotations import with_annotations as with_annotations
from autoshard.recipes.pins._constraints import user_constraints as user_constraints
from autoshard.recipes.pins._hold import fill_open as fill_open
from autoshard.recipes.pins._hold import hold_pins as hold_pins
from autoshard.recipes.pins._hold import pinned_axes as pinned_axes
from autoshard.recipes.pins._hold import spread_pins as spread_pins
from autoshard.recipes.pins._match import match_paths as match_paths
from autoshard.recipes.pins._pin import Pin as Pin
from autoshard.recipes.pins._pin import make_pin as make_pin
from autoshard.recipes.pins._read import read_pins as read_pins
