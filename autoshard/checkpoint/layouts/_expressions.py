"""Integer arithmetic in layouts: ``heads * head_size``, ``(vocab + 127) // 128 * 128``."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ExpressionError(ValueError):
    """An expression that cannot be evaluated."""


def names(text: str) -> set[str]:
    """The quantities that an expression speaks of."""
    return {node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)}


def evaluate(value: Any, bindings: Mapping[str, Any]) -> int:
    """The value of an integer or of an expression in ``+ - * // %``, comparisons, and, or, not.

    Args:
        value: An integer, or the text.
        bindings: Values of its names.

    >>> evaluate("(vocab + 127) // 128 * 128", {"vocab": 50257})
    50304
    """
    if isinstance(value, bool | int):
        return int(value)
    if not isinstance(value, str):
        raise ExpressionError(f"{value!r} is neither an integer nor an expression")
    return _value(_parse(value), bindings, value)


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is no expression: {error.msg}") from error


def _value(node: ast.expr, bindings: Mapping[str, Any], text: str) -> int:
    match node:
        case ast.Constant(value=bool() | int() as number):
            return int(number)
        case ast.Name(id=name):
            if name not in bindings:
                raise ExpressionError(f"{name} in {text!r} is no binding of this layout")
            if not isinstance(bindings[name], int):
                raise ExpressionError(f"{name} = {bindings[name]!r} in {text!r} is no integer")
            return int(bindings[name])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            values = _value(left, bindings, text), _value(right, bindings, text)
            if type(op) in (ast.FloorDiv, ast.Mod) and values[1] == 0:
                raise ExpressionError(f"{text!r} divides by zero")
            return _BINARY[type(op)](*values)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, bindings, text)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return int(not _value(operand, bindings, text))
        case ast.BoolOp(op=op, values=parts):
            results = [bool(_value(part, bindings, text)) for part in parts]
            return int(all(results) if isinstance(op, ast.And) else any(results))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return int(
                _COMPARE[type(op)](_value(left, bindings, text), _value(right, bindings, text))
            )
        case _:
            raise ExpressionError(
                f"{ast.unparse(node)!r} in {text!r} is not allowed: integers, names, "
                "+ - * // %, comparisons, and, or, not"
            )
