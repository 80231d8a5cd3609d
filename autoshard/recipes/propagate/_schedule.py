"""The order of propagation: rounds of user priorities, and in each the kinds of ops in turn.

What elementwise ops and moves of data say counts before what contractions say, whatever stands
first in the program; a factor that costs nothing before one that is summed. Ops that read a value
which others read too wait for a turn of their own: it may be wanted differently elsewhere. A
broadcast is told by its result before it tells it. (The order is Shardy's op-priority propagation.)
"""

from __future__ import annotations

import enum

from autoshard.rules import FactorKind, OpRule
from autoshard.tracing import RESULT, Program


class Turn(enum.IntEnum):
    """In each turn, everything that had one before goes on."""

    SINGLE_USE_MOVES = 0
    MOVES = 1
    PARALLEL = 2
    ALL_BUT_BROADCASTS = 3
    ALL = 4


class Schedule:
    """Who may learn when.

    Args:
        program: The program.
        rules: A rule for every op that takes part.
    """

    def __init__(self, program: Program, rules: dict[int, OpRule]) -> None:
        self._broadcasts: set[int] = set()
        self._first: dict[int, Turn] = {}
        for op_id, rule in rules.items():
            op = program.ops[op_id]
            if op.primitive == "broadcast_in_dim":
                self._broadcasts.add(op_id)
            shared = any(
                isinstance(o, int) and program.values[o].shape and len(program.consumers[o]) > 1
                for o in op.operands
            )
            if op.primitive != RESULT and not moves(rule):
                self._first[op_id] = Turn.PARALLEL
            else:
                self._first[op_id] = Turn.MOVES if shared else Turn.SINGLE_USE_MOVES

    def waits(self, op_id: int, turn: Turn) -> bool:
        """Whether an op has no say in a turn yet."""
        return turn < self._first[op_id]

    def learns(self, op_id: int, turn: Turn, kind: FactorKind) -> tuple[bool, bool]:
        """Whether an op's operands and results may learn of a kind of factor in a turn."""
        first = self._first[op_id]
        if kind is not FactorKind.PARALLEL:
            first = max(first, Turn.ALL_BUT_BROADCASTS)
        if turn < first:
            return False, False
        return True, op_id not in self._broadcasts or turn == Turn.ALL


def moves(rule: OpRule) -> bool:
    """Whether an op treats its arrays alike: elementwise, or a move of data.

    Nothing is summed, and every factor that may be cut without communication stands in every array
    with dimensions.
    """
    arrays = [dims for dims in (*rule.operands, *rule.results) if dims]
    parallel: set[str] = set()
    for name, factor in rule.factors.items():
        if factor.kind is FactorKind.REDUCTION:
            return False
        if factor.kind is FactorKind.PARALLEL:
            parallel.add(name)
    return all(parallel <= {name for dim in dims for name in dim} for dims in arrays)
