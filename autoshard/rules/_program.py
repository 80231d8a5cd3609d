"""Rules for all ops of a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autoshard.rules._registry import has_rule, rule_for, rule_name
from autoshard.rules._rule import OpRule
from autoshard.tracing import Program


@dataclass(frozen=True, eq=False)
class RuledProgram:
    """A program together with the rule of each op.

    Args:
        program: The program.
        rules: One rule per op; None for structured ops, whose ties carry the data flow.
    """

    program: Program
    rules: tuple[OpRule | None, ...]

    @cached_property
    def unknown(self) -> Mapping[str, int]:
        """Primitives without a rule, which run replicated, and how often each occurs."""
        return dict(
            Counter(
                rule_name(op.primitive, op.params)
                for op in self.program.ops
                if not op.structured and not has_rule(op.primitive, op.params)
            )
        )


def with_rules(program: Program) -> RuledProgram:
    """Give every op its rule.

    Args:
        program: A traced program.

    Returns:
        The program with its rules.

    Raises:
        RuleError: A registered rule does not fit its op.
    """
    values = program.values
    rules: list[OpRule | None] = []
    for op in program.ops:
        if op.structured:
            rules.append(None)
            continue
        operands = [program.aval(o) for o in op.operands]
        results = [values[r].aval for r in op.results]
        rules.append(rule_for(op.primitive, operands, results, op.params))
    return RuledProgram(program, tuple(rules))
