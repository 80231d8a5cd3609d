"""What the compiler made of a plan, read from optimized HLO.

Reading needs no jax: a text and a mesh's axes are enough, so that programs compiled elsewhere, or
ahead of time for other devices, are read the same way.
"""

from autoshard.verify._collectives import Collective as Collective
from autoshard.verify._collectives import Kind as Kind
from autoshard.verify._collectives import collectives as collectives
from autoshard.verify._collectives import traffic_bytes as traffic_bytes
from autoshard.verify._groups import IRREGULAR as IRREGULAR
from autoshard.verify._groups import MeshAxes as MeshAxes
from autoshard.verify._memory import Memory as Memory
from autoshard.verify._memory import memory as memory
from autoshard.verify._module import Module as Module
from autoshard.verify._stderr import Rematerialization as Rematerialization
from autoshard.verify._stderr import capture_native_stderr as capture_native_stderr
from autoshard.verify._stderr import (
    involuntary_rematerializations as involuntary_rematerializations,
)
from autoshard.verify._summary import Total as Total
from autoshard.verify._summary import format_table as format_table
from autoshard.verify._summary import summarize as summarize
from autoshard.verify._summary import traffic_by_axes as traffic_by_axes
from autoshard.verify._text import parse_module as parse_module
