"""Tracing a whole step to a `Program`: flat values and ops, regions, ties and tree paths."""

from autoshard.tracing._program import ARGUMENT as ARGUMENT
from autoshard.tracing._program import RESULT as RESULT
from autoshard.tracing._program import TIE as TIE
from autoshard.tracing._program import Block as Block
from autoshard.tracing._program import Leaf as Leaf
from autoshard.tracing._program import Literal as Literal
from autoshard.tracing._program import Op as Op
from autoshard.tracing._program import Program as Program
from autoshard.tracing._program import Value as Value
from autoshard.tracing._program import nbytes as nbytes
from autoshard.tracing._structure import Signature as Signature
from autoshard.tracing._structure import Structure as Structure
from autoshard.tracing._structure import find_structure as find_structure
from autoshard.tracing._structure import op_signature as op_signature
from autoshard.tracing._trace import abstract as abstract
from autoshard.tracing._trace import parameter_names as parameter_names
from autoshard.tracing._trace import path_text as path_text
from autoshard.tracing._trace import trace as trace
