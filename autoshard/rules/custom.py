"""Functions that bring their own partitioning rule.

`jax.experimental.custom_partitioning` may carry a rule in Shardy's notation, which is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoshard.rules._build import RuleBuilder
from autoshard.rules._registry import Shaped, opaque, register_rule
from autoshard.rules._rule import FactorKind, OpRule

_ELLIPSIS = "…"
"""How jax writes the leading dimensions that ``...`` stands for."""


@register_rule("custom_partitioning")
def custom_partitioning(
    operands: Sequence[Shaped], results: Sequence[Shaped], params: Mapping[str, Any]
) -> OpRule:
    """The function's ``sharding_rule``; whole without one, or where it is computed from a mesh.

    A reduction factor is whole: the function combines its partial results itself, and the rule
    does not tell how.
    """
    described = params.get("sharding_rule")
    if described is None or not hasattr(described, "operand_mappings"):
        return opaque(operands, results, params)
    builder = RuleBuilder(operands, results)
    sizes: dict[str, int] = {}
    places: dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for side, mappings, arrays in (
        (0, described.operand_mappings, operands),
        (1, described.result_mappings, results),
    ):
        for index, (mapping, array) in enumerate(zip(mappings, arrays, strict=True)):
            for d, name, size in _factors(mapping, array.shape, described.factor_sizes):
                sizes[name] = size
                places.setdefault(name, ([], []))[side].append((index, d))
    kinds = {name: FactorKind.HALO for name in getattr(described, "permutation_factors", ())}
    for attribute in ("reduction_factors", "need_replication_factors"):
        kinds |= dict.fromkeys(getattr(described, attribute, ()), FactorKind.WHOLE)
    for name, (in_operands, in_results) in places.items():
        builder.add(
            sizes[name],
            operands=in_operands,
            results=in_results,
            kind=kinds.get(name, FactorKind.PARALLEL),
        )
    return builder.finish()


def _factors(
    mapping: Sequence[Any], shape: Sequence[int], sizes: Mapping[str, int]
) -> Iterator[tuple[int, str, int]]:
    """Dimension, name and size of each factor of an array; ``...`` is taken apart."""
    named: list[Any] = []
    for entry in mapping:
        if isinstance(entry, str) and entry.startswith(_ELLIPSIS):
            count = len(shape) - (len(mapping) - 1)
            named += [f"{entry}/{number}" for number in range(count)]
        else:
            named.append(entry)
    for d, entry in enumerate(named):
        if isinstance(entry, str):
            yield d, entry, shape[d]
        else:
            for name in entry:
                yield d, name, sizes[name]
