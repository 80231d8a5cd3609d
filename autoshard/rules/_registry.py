"""The table of rules, keyed by primitive name.

A rule function takes the avals of operands and results and the primitive's params, and returns an
`OpRule`. The table only grows: a second registration of a name is an error, so that a rule cannot
be replaced behind the back of whoever relies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from autoshard.errors import RuleError
from autoshard.rules._rule import OpRule


class Shaped(Protocol):
    """What a rule may look at: a shape and a dtype, never values."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


RuleFunction = Callable[[Sequence[Shaped], Sequence[Shaped], Mapping[str, Any]], OpRule]

_CALLS = {"ffi_call": "target_name", "pallas_call": "name"}
"""Primitives that call one of many kernels → the param that says which."""

_RULES: dict[str, RuleFunction] = {}


def register_rule(*primitives: str) -> Callable[[RuleFunction], RuleFunction]:
    """Register the decorated function as the rule of some primitives.

    Args:
        *primitives: Names as they stand in a jaxpr (``str(eqn.primitive)``). One kernel of those
            that a primitive may call is named with it: ``"pallas_call:flash_attention"``,
            ``"ffi_call:my_target"``.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        RuleError: A primitive already has a rule.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for primitive in primitives:
            if primitive in _RULES:
                raise RuleError(
                    f"primitive {primitive!r} already has a rule "
                    f"({_RULES[primitive].__module__}.{_RULES[primitive].__qualname__})"
                )
            _RULES[primitive] = function
        return function

    return register


def rule_name(primitive: str, params: Mapping[str, Any]) -> str:
    """The name under which an op's own rule is registered.

    Args:
        primitive: Its name in the jaxpr.
        params: Its params.

    Returns:
        The primitive's name, with the kernel's for calls of kernels: ``"ffi_call:my_target"``.
    """
    label = params.get(_CALLS.get(primitive, ""))
    return f"{primitive}:{label}" if label else primitive


def has_rule(primitive: str, params: Mapping[str, Any] | None = None) -> bool:
    """Whether an op has a registered rule.

    Args:
        primitive: Its name in the jaxpr.
        params: Its params, which tell kernels apart.

    Returns:
        Whether there is a rule for the kernel or for the primitive.
    """
    return rule_name(primitive, params or {}) in _RULES or primitive in _RULES


def registered() -> tuple[str, ...]:
    """All primitive names with a rule, sorted."""
    return tuple(sorted(_RULES))


def rule_for(
    primitive: str,
    operands: Sequence[Shaped],
    results: Sequence[Shaped],
    params: Mapping[str, Any],
) -> OpRule:
    """The rule of one op.

    Args:
        primitive: Its name in the jaxpr.
        operands: Avals (or anything with ``shape`` and ``dtype``) of the operands.
        results: The same for the results.
        params: The primitive's params.

    Returns:
        The rule, checked against the shapes. A primitive without a rule gets one in which every
        dimension is whole: it runs replicated.

    Raises:
        RuleError: The registered rule does not fit the shapes.
    """
    name = rule_name(primitive, params)
    function = _RULES.get(name) or _RULES.get(primitive, opaque)
    rule = function(operands, results, params)
    try:
        rule.check([a.shape for a in operands], [a.shape for a in results])
    except RuleError as error:
        raise RuleError(f"the rule of {name!r} does not fit: {error}") from error
    return rule


def opaque(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """The rule of an op about which nothing is known: every dimension is whole."""
    from autoshard.rules._build import RuleBuilder

    builder = RuleBuilder(operands, results)
    return builder.finish()
