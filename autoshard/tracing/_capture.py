"""Arrays that a function closes over, and how they get into regions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autoshard.tracing._program import Block, Literal, Op

Operand = int | Literal


def identity(array: Any, aval: Any) -> Hashable:
    """A key that is equal for two constants that are the same array.

    For a numpy array that is the memory behind it: a table that is sliced anew in every layer is
    one array.
    """
    weak = bool(getattr(aval, "weak_type", False))
    if isinstance(array, np.ndarray):
        memory = array.__array_interface__["data"][0]
        return ("host", memory, array.shape, array.strides, array.dtype.str, str(aval.dtype), weak)
    return (id(array), weak)


class Hoists:
    """The closed-over arrays that the bodies of one region read.

    Args:
        kind: Kind of the ties through which they enter.
        bodies: Number of bodies that take the same operands.
    """

    def __init__(self, kind: str, bodies: int = 1) -> None:
        self.kind = kind
        self.bodies = bodies
        self.ties: dict[Hashable, Op] = {}

    @property
    def operands(self) -> list[Operand]:
        """What the region reads in addition, before its other operands of that kind."""
        return [tie.operands[0] for tie in self.ties.values()]

    @property
    def tie_ids(self) -> list[int]:
        """The ties, in the order of the operands."""
        return [tie.id for tie in self.ties.values()]

    def enter(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """The bodies with the arrays as their first parameters."""
        return tuple(
            replace(b, inputs=(*(tie.results[i] for tie in self.ties.values()), *b.inputs))
            for i, b in enumerate(blocks)
        )
