"""What a device runs instead of the whole op, where that is not simply the same primitive.

Some params repeat a global size (the shape of a broadcast) and shrink with the shard. Some ops act
by position (an iota, a lookup, a scatter) and a device has to know where its part begins. Both are
tables by primitive, alphabetical; a primitive that is in neither runs unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoshard.rules._rule import FactorKind
from autoshard.rules.oracle._cut import local_shape
from autoshard.rules.oracle._op import Arrays, Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of the equal parts into which a factor of an op is cut.

    Args:
        op: The whole op.
        factor: Name of the factor.
        index: Which part.
        count: How many parts.
    """

    op: Op
    factor: str
    index: int
    count: int

    def operand_shape(self, index: int) -> tuple[int, ...]:
        """Local shape of an operand."""
        shape, dims = self.op.operands[index].shape, self.op.rule.operands[index]
        return local_shape(shape, dims, self.factor, self.count)

    def result_shape(self, index: int) -> tuple[int, ...]:
        """Local shape of a result."""
        shape, dims = self.op.results[index].shape, self.op.rule.results[index]
        return local_shape(shape, dims, self.factor, self.count)

    def stands_in(self, side: str, index: int) -> tuple[int, ...]:
        """Dimensions of an operand or result in which the factor stands."""
        return tuple(d for s, i, d in self.op.rule.places(self.factor) if (s, i) == (side, index))

    @property
    def kind(self) -> FactorKind:
        """The factor's kind."""
        return self.op.rule.factors[self.factor].kind

    def offset(self, side: str, index: int, d: int) -> int:
        """Where the shard begins in a dimension, in elements of the whole array."""
        arrays = self.op.operands if side == "operand" else self.op.results
        return self.index * (arrays[index].shape[d] // self.count)


Localize = Callable[[Mapping[str, Any], Shard], Mapping[str, Any]]
"""Params of the whole op, and a shard, to the params that differ on it."""


def _broadcast_in_dim(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    return {"shape": shard.result_shape(0)}


def _conv(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    numbers = params["dimension_numbers"]
    lhs, rhs = shard.stands_in("operand", 0), shard.stands_in("operand", 1)
    changed: dict[str, Any] = {}
    if rhs == (numbers.rhs_spec[0],):
        if lhs == (numbers.lhs_spec[1],):
            changed["feature_group_count"] = params["feature_group_count"] // shard.count
        if lhs == (numbers.lhs_spec[0],):
            changed["batch_group_count"] = params["batch_group_count"] // shard.count
    for n, (l, r, o) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        if l in lhs and r in rhs and shard.op.results[0].shape[o] > 1:
            # A window that covers its block shrinks with it, and so does the step between blocks.
            # Padding behind the last block was too little for another window; now it need not be.
            strides, padding = list(params["window_strides"]), list(params["padding"])
            strides[n] //= shard.count
            padding[n] = (0, 0)
            changed |= {"window_strides": tuple(strides), "padding": tuple(padding)}
    return changed


def _dynamic_slice(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    return {"slice_sizes": shard.result_shape(0)}


def _gather(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    whole, local = shard.op.operands[0].shape, shard.operand_shape(0)
    return {
        "slice_sizes": tuple(
            l if size == w else size
            for size, w, l in zip(params["slice_sizes"], whole, local, strict=True)
        )
    }


def _iota(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    return {"shape": shard.result_shape(0)}


def _reshape(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    return {"new_sizes": shard.result_shape(0)}


def _slice(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    limits = list(params["limit_indices"])
    for d in shard.stands_in("operand", 0):
        limits[d] = shard.operand_shape(0)[d]
    return {"limit_indices": tuple(limits)}


def _split(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    axis = params["axis"]
    return {"sizes": tuple(shard.result_shape(n)[axis] for n in range(len(shard.op.results)))}


def _tile(params: Mapping[str, Any], shard: Shard) -> Mapping[str, Any]:
    reps = list(params["reps"])
    if not shard.stands_in("operand", 0):
        for d in shard.stands_in("result", 0):
            reps[d] //= shard.count
    return {"reps": tuple(reps)}


LOCALIZE: dict[str, Localize] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "conv_general_dilated": _conv,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "iota": _iota,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "tile": _tile,
}
"""Params that repeat a global size."""


RunShard = Callable[[Shard, Arrays], Arrays]
"""Runs what one device runs: the shard and its operands, to its results."""


def run_local(shard: Shard, operands: Arrays, localize: Localize | None = None) -> Arrays:
    """Run what one device runs.

    Args:
        shard: The shard.
        operands: Its operands.
        localize: The user's own localizer, if any.

    Returns:
        Its results.
    """
    op = shard.op
    name = str(op.primitive)
    localize = localize or LOCALIZE.get(name)
    changed = localize(op.params, shard) if localize else {}
    return POSITIONAL.get(name, _unchanged)(shard, operands, changed)


def _unchanged(shard: Shard, operands: Arrays, changed: Mapping[str, Any]) -> Arrays:
    return shard.op.run(operands, **changed)


def _update_here(shard: Shard, operands: Arrays, changed: Mapping[str, Any]) -> Arrays:
    """Write an update of one element if it lies in this shard."""
    op = shard.op
    starts = list(operands[2:])
    for d in shard.stands_in("operand", 0):
        if shard.stands_in("operand", 1):
            continue
        size, local = op.operands[0].shape[d], shard.operand_shape(0)[d]
        start = int(starts[d])
        here = min(max(start, 0), size - 1) - shard.offset("operand", 0, d)
        if not 0 <= here < local:
            return (operands[0],)
        starts[d] = np.asarray(here, starts[d].dtype)
    return op.run((*operands[:2], *starts), **changed)


def _iota_from(shard: Shard, operands: Arrays, changed: Mapping[str, Any]) -> Arrays:
    (out,) = shard.op.run(operands, **changed)
    d = shard.op.params["dimension"]
    if d in shard.stands_in("result", 0):
        out = (out + shard.offset("result", 0, d)).astype(out.dtype)
    return (out,)


def _masked_gather(shard: Shard, operands: Arrays, changed: Mapping[str, Any]) -> Arrays:
    """Look up what lies in this shard; elsewhere zero. Out of bounds is the first shard's."""
    if shard.kind is not FactorKind.REDUCTION:
        return shard.op.run(operands, **changed)
    numbers = shard.op.params["dimension_numbers"]
    (d,) = shard.stands_in("operand", 0)
    column = list(numbers.start_index_map).index(d)
    size, local = shard.op.operands[0].shape[d], shard.operand_shape(0)[d]
    table, indices = operands[0], operands[1].astype(np.int64)
    wanted = indices[..., column]
    if _drops(shard.op):
        outside = (wanted < 0) | (wanted >= size)
    else:
        wanted, outside = np.clip(wanted, 0, size - 1), np.zeros(wanted.shape, bool)
    here = wanted - shard.offset("operand", 0, d)
    mine = (here >= 0) & (here < local) & ~outside
    here = np.where(outside, -1, np.where(mine, here, 0))
    if shard.index == 0:
        mine |= outside
    indices[..., column] = here
    (out,) = shard.op.run((table, indices.astype(operands[1].dtype)), **changed)
    batch = [x for x in range(out.ndim) if x not in numbers.offset_dims]
    shape = [out.shape[x] if x in batch else 1 for x in range(out.ndim)]
    return (np.where(mine.reshape(shape), out, np.zeros((), out.dtype)),)


def _scatter_here(shard: Shard, operands: Arrays, changed: Mapping[str, Any]) -> Arrays:
    """Apply the updates that fall into this shard, or this shard's updates."""
    op = shard.op
    if shard.kind is FactorKind.REDUCTION:
        start = operands[0]
        if shard.index:
            combine = op.rule.factors[shard.factor].combine
            assert combine is not None
            start = np.full_like(start, identity_of(combine, start.dtype))
        return op.run((start, *operands[1:]), **changed)
    numbers = op.params["dimension_numbers"]
    indexed = [d for d in shard.stands_in("operand", 0) if d in numbers.inserted_window_dims]
    if not indexed:
        return op.run(operands, **changed)
    indices = operands[1].astype(np.int64)
    for column, d in enumerate(numbers.scatter_dims_to_operand_dims):
        size = op.operands[0].shape[d]
        wanted = indices[..., column]
        if not _drops(op):
            wanted = np.clip(wanted, 0, size - _window_size(op, d))
        outside = (wanted < 0) | (wanted >= size)
        if d in indexed:
            here = wanted - shard.offset("operand", 0, d)
            outside |= (here < 0) | (here >= shard.operand_shape(0)[d])
            wanted = here
        indices[..., column] = np.where(outside, -1, wanted)
    mode = type(op.params["mode"]).FILL_OR_DROP
    return op.run(
        (operands[0], indices.astype(operands[1].dtype), operands[2]), **{**changed, "mode": mode}
    )


def _window_size(op: Op, d: int) -> int:
    numbers = op.params["dimension_numbers"]
    dropped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    if d in dropped:
        return 1
    window = [x for x in range(len(op.operands[0].shape)) if x not in dropped]
    return op.operands[2].shape[sorted(numbers.update_window_dims)[window.index(d)]]


def _drops(op: Op) -> bool:
    """Whether a gather fills, or a scatter drops, what is out of bounds; else it is clamped."""
    return op.params["mode"].name == "FILL_OR_DROP"


POSITIONAL: dict[str, Callable[[Shard, Arrays, Mapping[str, Any]], Arrays]] = {
    "dynamic_update_slice": _update_here,
    "gather": _masked_gather,
    "iota": _iota_from,
    "scatter": _scatter_here,
    "scatter-add": _scatter_here,
    "scatter-max": _scatter_here,
    "scatter-min": _scatter_here,
    "scatter-mul": _scatter_here,
    "scatter-sub": _scatter_here,
}
"""Ops that act by position."""


def identity_of(combine: str, dtype: np.dtype) -> Any:
    """What leaves the other side of a combining operation as it is."""
    if combine in ("max", "min"):
        lowest = combine == "max"
        if np.issubdtype(dtype, np.integer):
            info = np.iinfo(dtype)
            return info.min if lowest else info.max
        return -math.inf if lowest else math.inf
    if combine == "and":
        return np.array(-1).astype(dtype) if dtype != np.bool_ else True
    return 1 if combine == "prod" else 0
