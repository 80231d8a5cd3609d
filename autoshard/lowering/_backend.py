"""How a plan's specs are expressed: the one place that a second way of lowering would replace."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding

from autoshard.plan import Reduction, Spec
from autoshard.tracing import Op

Mesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


class Backend(Protocol):
    """What emission asks of a way of lowering."""

    def constrain(self, array: Any, chain: Sequence[Spec]) -> Any:
        """Pass an array through a chain of specs."""
        ...

    def reduce(self, terms: Sequence[Term]) -> Any:
        """Run ops that sum over sharded dimensions, add up and combine their results."""
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """An op whose partial result is to be combined.

    Args:
        op: The op.
        operands: Its operands, in the specs that the reduction names.
        reduction: How the plan combines it.
    """

    op: Op
    operands: Sequence[Any]
    reduction: Reduction


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

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def constrain(self, array: Any, chain: Sequence[Spec]) -> Any:
        """One ``with_sharding_constraint`` per station."""
        for spec in chain:
            sharding = NamedSharding(self.mesh, spec.partition_spec())
            array = jax.lax.with_sharding_constraint(array, sharding)
        return array

    def reduce(self, terms: Sequence[Term]) -> Any:
        """A ``shard_map`` island: the ops on shards, their sum, then one collective.

        The partitioner turns a constrained partial sum into an all-reduce and a slice on backends
        without a pass that merges the two (CPU), and then combines the all-reduces of all
        gradients into one, which keeps every gradient alive in full. Written out it is a
        reduce-scatter everywhere. The island is manual on all axes: left to the partitioner, the
        other axes of a reduce-scatter's operand are gathered (seen on CPU, jax 0.10.2).
        """
        how = terms[0].reduction

        def island(*local: Any) -> Any:
            rest = iter(local)

            def part(term: Term) -> Any:
                operands = [next(rest) for _ in term.operands]
                if _adds_to(term.op):  # every device would add the operand: it is added outside
                    operands[0] = jax.numpy.zeros_like(operands[0])
                return _partial(term, operands, self.mesh)

            total = functools.reduce(operator.add, map(part, terms))
            if how.reduced:
                total = jax.lax.psum(total, how.reduced)
            if how.axes:
                total = jax.lax.psum_scatter(total, how.axes, scatter_dimension=how.dim, tiled=True)
            return total.astype(_dtype(terms[0].op))

        summed = jax.shard_map(
            island,
            mesh=self.mesh,
            in_specs=tuple(s.partition_spec() for t in terms for s in t.reduction.operands),
            out_specs=how.result.partition_spec(),
            check_vma=False,
        )(*(operand for term in terms for operand in term.operands))
        for term in terms:
            if _adds_to(term.op):
                summed = term.operands[0] + summed
        return summed


def _partial(term: Term, operands: Sequence[Any], mesh: Mesh) -> Any:
    """An op's result from shards of its operands, in a type of its own where one is asked for."""
    op, dtype = term.op, term.reduction.dtype
    params = _LOCAL_PARAMS.get(op.primitive, _unchanged)(term, mesh)
    if dtype is None:
        return _bind(op, operands, params)
    own = _dtype(op)
    wider = jax.numpy.promote_types(own, dtype) == dtype
    if wider and "preferred_element_type" in params:
        return _bind(op, operands, {**params, "preferred_element_type": jax.numpy.dtype(dtype)})
    if wider and op.primitive == "reduce_sum":
        operands = [x.astype(dtype) if x.dtype == own else x for x in operands]
    return _bind(op, operands, params).astype(dtype)


def _bind(op: Op, operands: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """The one result of an op that is run on shards."""
    primitive = op.eqn.primitive
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return out[0] if primitive.multiple_results else out


def _unchanged(term: Term, mesh: Mesh) -> Mapping[str, Any]:
    return term.op.eqn.params


def _groups(term: Term, mesh: Mesh) -> Mapping[str, Any]:
    """Params of a convolution on shards: groups, the major factor of a dimension, may be cut."""
    params = dict(term.op.eqn.params)
    batch, features = params["dimension_numbers"].lhs_spec[:2]
    cut = term.reduction.operands[0].dims
    for name, dim in (("batch_group_count", batch), ("feature_group_count", features)):
        shards = math.prod(mesh.shape[axis] for axis in cut[dim])
        params[name] = max(1, params[name] // shards)
    return params


_LOCAL_PARAMS: dict[str, Callable[[Term, Mesh], Mapping[str, Any]]] = {
    "conv_general_dilated": _groups,
}
"""Params of primitives that speak of the size of a shard."""


def _dtype(op: Op) -> Any:
    return op.eqn.outvars[0].aval.dtype


def _adds_to(op: Op) -> bool:
    """Whether an op adds to its first operand."""
    return op.primitive == "scatter-add"
