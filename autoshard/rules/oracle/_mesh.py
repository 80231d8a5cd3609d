"""What XLA's partitioner makes of a rule: the collectives in the compiled op.

Partitioned programs compute what the whole one does whatever the specs are, so that values prove
nothing here. What can be seen is whether the partitioner knows the rule too: a parallel factor
needs no collective, a reduction no more than an all-reduce, a halo exchanges borders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard.rules._rule import Dims, FactorKind
from autoshard.rules.oracle._op import Op

_COLLECTIVE = re.compile(
    r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def placed(op: Op, factor: str, shards: int) -> bool:
    """Whether specs can say that a factor is sharded, alone and evenly.

    A factor inside a dimension cannot be named unless those before it have a single element; and a
    dimension that the shards do not divide is padded, which is not what a rule speaks about.
    """
    found = False
    for side, index, d in op.rule.places(factor):
        dims = (op.rule.operands if side == "operand" else op.rule.results)[index]
        arrays = op.operands if side == "operand" else op.results
        if dims[d][0] != factor or arrays[index].shape[d] % shards:
            return False
        found = True
    return found


def collectives(op: Op, factor: str, shards: int) -> Mapping[str, int]:
    """Compile an op with one factor sharded and count the collectives.

    Args:
        op: The op.
        factor: Name of the factor; see `placed`.
        shards: Devices to shard it over.

    Returns:
        Kind of collective → number of instructions.
    """
    mesh = Mesh(np.array(jax.devices()[:shards]), ("x",), axis_types=(AxisType.Auto,))

    def sharding(dims: Dims) -> NamedSharding:
        spec = ["x" if factor in dim else None for dim in dims]
        return NamedSharding(mesh, PartitionSpec(*spec))

    def run(*operands: Any) -> list[Any]:
        out = op.primitive.bind(*operands, **op.params)
        return list(out) if op.primitive.multiple_results else [out]

    compiled = (
        jax.jit(
            run,
            in_shardings=tuple(sharding(dims) for dims in op.rule.operands),
            out_shardings=[sharding(dims) for dims in op.rule.results],
        )
        .lower(*[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in op.operands])
        .compile()
    )
    return dict(Counter(_COLLECTIVE.findall(compiled.as_text() or "")))


ALLOWED: dict[FactorKind, frozenset[str]] = {
    FactorKind.PARALLEL: frozenset(),
    FactorKind.REDUCTION: frozenset({"all-reduce"}),
    FactorKind.HALO: frozenset({"collective-permute", "all-to-all", "all-reduce"}),
}
"""Collectives that each kind may need."""
