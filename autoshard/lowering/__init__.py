"""Lowering: a program and its plan become a jitted function."""

from autoshard.lowering._backend import AutoAxes as AutoAxes
from autoshard.lowering._backend import Backend as Backend
from autoshard.lowering._emit import Emitter as Emitter
from autoshard.lowering._jit import device_mesh as device_mesh
from autoshard.lowering._jit import lower_plan as lower_plan
from autoshard.lowering._jit import shardings as shardings
from autoshard.lowering._jit import with_auto_axes as with_auto_axes
