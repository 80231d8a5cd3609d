"""Rules written as text, with sizes left to the op's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoshard.errors import RuleError
from autoshard.rules._registry import RuleFunction, Shaped
from autoshard.rules._rule import Dims, OpRule
from autoshard.rules._text import ELLIPSIS, parse_text


def rule_from_text(template: str) -> RuleFunction:
    """A rule function from the text of a rule whose sizes are open.

    Args:
        template: A rule as `format_rule` writes it. Sizes that the shapes tell may be left out:
            all of them, unless a dimension has several factors. ``...`` at the start of arrays
            stands for any number of parallel leading dimensions, the same in each of them.

    Returns:
        What `register_rule` registers.

    Raises:
        RuleSyntaxError: The template cannot be read.

    Example:
        >>> import numpy as np
        >>> rule = rule_from_text("([..., k], [k, j])->([..., j]) reduction={k:sum}")
        >>> x, w, y = np.zeros((2, 8, 4)), np.zeros((4, 16)), np.zeros((2, 8, 16))
        >>> str(rule([x, w], [y], {}))
        '([i, l, k], [k, j])->([i, l, j]) {i=2, l=8, k=4, j=16} reduction={k:sum}'
    """
    parsed = parse_text(template)

    def function(
        operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
    ) -> OpRule:
        shapes = [*(tuple(a.shape) for a in operands), *(tuple(a.shape) for a in results)]
        written = [*parsed.operands, *parsed.results]
        if len(operands) != len(parsed.operands) or len(results) != len(parsed.results):
            raise RuleError(
                f"{template} describes {len(parsed.operands)} operands and {len(parsed.results)} "
                f"results, the op has {len(operands)} and {len(results)}"
            )
        sizes = dict(parsed.sizes)
        taken = {name for dims in written for dim in dims for name in dim}
        arrays = [
            _fill(dims, shape, sizes, taken, template)
            for dims, shape in zip(written, shapes, strict=True)
        ]
        order = dict.fromkeys(n for dims in arrays for dim in dims for n in dim)
        if missing := [n for n in order if n not in sizes]:
            raise RuleError(
                f"{template}: shapes do not tell the sizes of {', '.join(missing)}, which share "
                f"dimensions; write {{{', '.join(f'{n}=…' for n in missing)}}} behind the arrays"
            )
        return OpRule(
            operands=tuple(arrays[: len(operands)]),
            results=tuple(arrays[len(operands) :]),
            factors={name: parsed.factor(name, sizes[name]) for name in order},
        )

    return function


def _fill(
    dims: Dims, shape: tuple[int, ...], sizes: dict[str, int], taken: set[str], template: str
) -> Dims:
    """Expand ``...`` and read off the sizes that one array tells."""
    if dims and dims[0] == (ELLIPSIS,):
        count = len(shape) - (len(dims) - 1)
        leading = tuple((n,) for n in _leading_names(max(count, 0), taken))
        dims = (*leading, *dims[1:])
    if len(dims) != len(shape):
        raise RuleError(f"{template} gives {len(dims)} dimensions to an array of shape {shape}")
    for dim, size in zip(dims, shape, strict=True):
        unknown = [n for n in dim if n not in sizes]
        if len(unknown) == 1:
            rest = 1
            for name in dim:
                rest *= sizes.get(name, 1)
            sizes[unknown[0]] = size // rest if rest else 0
    return dims


def _leading_names(count: int, taken: set[str]) -> list[str]:
    """Names for the dimensions that ``...`` stands for, the same for every array."""
    from autoshard.rules._build import factor_names

    fresh = (name for name in factor_names() if name not in taken)
    return [next(fresh) for _ in range(count)]
