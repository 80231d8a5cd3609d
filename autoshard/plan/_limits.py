"""Labels that a rule allows and that the partitioner gets wrong.

XLA's partitioner returns a multiple of the right numbers for a convolution that is cut along its
height over one axis and along its output channels over another (seen on CPU, jax 0.10.2 and 0.11.2:
height over 2 devices, channels over 4, four times too large). This goes when
``tests/plan/test_limits.py`` says that the partitioner has been mended.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoshard.rules import FactorKind, OpRule


def is_miscompiled(primitive: str, rule: OpRule, label: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a partitioner is known to compute wrong numbers under a label.

    Args:
        primitive: Name of the op's primitive.
        rule: Its rule.
        label: The label.
    """
    if primitive != "conv_general_dilated":
        return False
    used = {name for name, axes in label.items() if axes}
    halo = used.intersection(rule.of_kind(FactorKind.HALO))
    kernel = {name for dim in rule.operands[1] for name in dim}
    channels = {name for dim in rule.results[0] for name in dim} & kernel
    return bool(halo and used & channels)
