"""How a plan's specs are expressed: the one place that a second way of lowering would replace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding

from autoshard.plan import ReduceScatter, Spec
from autoshard.tracing import Op


class Backend(Protocol):
    """What emission asks of a way of lowering."""

    def constrain(self, array: Any, chain: Sequence[Spec]) -> Any:
        """Pass an array through a chain of specs."""
        ...

    def reduce_scatter(self, op: Op, operands: Sequence[Any], scatter: ReduceScatter) -> Any:
        """Run an op that sums over sharded dimensions and combine its result into shards."""
        ...


def bind(op: Op, operands: Sequence[Any]) -> list[Any]:
    """Run an op as it was traced."""
    primitive = op.eqn.primitive
    out = primitive.bind(*operands, **primitive.get_bind_params(op.eqn.params))
    return list(out) if primitive.multiple_results else [out]


class AutoAxes:
    """Lowering for meshes with Auto axes: sharding constraints, and islands for reductions.

    Args:
        mesh: The device mesh.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self.mesh = mesh

    def constrain(self, array: Any, chain: Sequence[Spec]) -> Any:
        """One ``with_sharding_constraint`` per station."""
        for spec in chain:
            sharding = NamedSharding(self.mesh, spec.partition_spec())
            array = jax.lax.with_sharding_constraint(array, sharding)
        return array

    def reduce_scatter(self, op: Op, operands: Sequence[Any], scatter: ReduceScatter) -> Any:
        """A ``shard_map`` island: the op on shards, then ``psum_scatter``.

        The partitioner turns a constrained partial sum into an all-reduce and a slice on backends
        without a pass that merges the two (CPU), and then combines the all-reduces of all
        gradients into one, which keeps every gradient alive in full. Written out it is a
        reduce-scatter everywhere. The island is manual on all axes: left to the partitioner, the
        other axes of a reduce-scatter's operand are gathered (seen on CPU, jax 0.10.2).
        """
        adds_to = op.primitive == "scatter-add"

        def island(*local: Any) -> Any:
            if adds_to:  # every device would add the operand: it is added once, outside
                local = (jax.numpy.zeros_like(local[0]), *local[1:])
            (partial,) = bind(op, local)
            if scatter.reduced:
                partial = jax.lax.psum(partial, scatter.reduced)
            return jax.lax.psum_scatter(
                partial, scatter.axes, scatter_dimension=scatter.dim, tiled=True
            )

        summed = jax.shard_map(
            island,
            mesh=self.mesh,
            in_specs=tuple(spec.partition_spec() for spec in scatter.operands),
            out_specs=scatter.result.partition_spec(),
            check_vma=False,
        )(*operands)
        return operands[0] + summed if adds_to else summed
