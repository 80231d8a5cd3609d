"""Labels that a rule allows and that the partitioner gets wrong.

XLA's partitioner returns multiples of the right numbers for many convolutions that are cut in two
ways, and aborts on some (seen on CPU, jax 0.10.2 and 0.11.2). Those whose shards compute their part
as they are, the lowering writes out; see `_convolutions`. Left are those whose windows look beyond
the border of a shard, where the partitioner exchanges borders, and those that are cut inside a
dimension; which cuts go together with these is said here. This goes when
``tests/plan/test_limits.py`` says that the partitioner is mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoshard.rules import FactorKind, OpRule


def is_miscompiled(
    primitive: str,
    params: Mapping[str, Any],
    rule: OpRule,
    label: Mapping[str, tuple[str, ...]],
) -> bool:
    """Whether a partitioner is known to compute wrong numbers under a label.

    Args:
        primitive: Name of the op's primitive.
        params: Its params.
        rule: Its rule.
        label: The label.
    """
    if primitive != "conv_general_dilated":
        return False
    used = {name for name, axes in label.items() if axes}
    if len(used) > 1 and any(
        name in used and not used.issuperset(dim[:place])
        for dim in rule.operands[0]
        for place, name in enumerate(dim)
    ):
        return True  # no spec says that: the lowering cannot write it out
    halo = used.intersection(rule.of_kind(FactorKind.HALO))
    if not halo:
        return False
    if params["batch_group_count"] != 1:
        return used != halo
    kernel = {name for dim in rule.operands[1] for name in dim}
    result = {name for dim in rule.results[0] for name in dim}
    return bool(used & kernel & result or (params["feature_group_count"] != 1 and used & kernel))
