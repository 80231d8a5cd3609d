"""The label of each op: on which factors it computes, once the arrays have their specs.

An op runs on its operands as they are where one label can read them all so, and what it leaves is
resharded; otherwise the label moves the fewest bytes. Bytes are those that a device receives on
average: what it wants to have less what it has, plus the partial results it combines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from autoshard.plan import Label, MeshShape, Spec, project
from autoshard.recipes.propagate._slots import Slot, Slots
from autoshard.rules import Dims, FactorKind, OpRule, RuledProgram
from autoshard.tracing import ARGUMENT, RESULT, Op

_MAX_CANDIDATES = 2048


def choose_labels(ruled: RuledProgram, mesh: MeshShape, slots: Slots) -> dict[int, Label]:
    """Labels for all ops that compute, read or make anything sharded.

    Args:
        ruled: The program.
        mesh: The mesh.
        slots: The specs that its arrays are wanted in.

    Returns:
        Op id → label.
    """
    program = ruled.program
    made: dict[int, Spec] = {}
    labels: dict[int, Label] = {}
    for op in program.ops:
        rule = ruled.rules[op.id]
        if rule is None:
            continue
        wanted = slots.made_by(op.id)
        if op.primitive in (ARGUMENT, RESULT) or _is_given(op, wanted):
            dims = (rule.results or rule.operands)[0]
            label = _split(wanted[0].spec, dims, wanted[0].shape, rule, mesh)
        else:
            have = [
                None if slot is None else (made.get(o, slot.spec) if isinstance(o, int) else None)
                for o, slot in zip(op.operands, slots.operands(op.id), strict=True)
            ]
            label = _cheapest(rule, have, slots.operands(op.id), wanted, mesh)
        if any(label.values()):
            labels[op.id] = {name: axes for name, axes in label.items() if axes}
        for index, result in enumerate(op.results):
            shape = program.values[result].shape
            made[result] = project(rule.results[index], rule, label, shape, mesh)
    return labels


def _is_given(op: Op, wanted: Sequence[Slot]) -> bool:
    """Whether the user constrained what an op makes."""
    return op.primitive == "sharding_constraint" and wanted[0].hint is not None


def _split(
    spec: Spec, dims: Dims, shape: Sequence[int], rule: OpRule, mesh: MeshShape
) -> dict[str, tuple[str, ...]]:
    """Factor → axes of one array; axes that no factor can carry are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for dim, axes, size in zip(dims, spec.dims, shape, strict=True):
        rest = list(axes)
        for name in dim:
            factor = rule.factors[name]
            if factor.kind is FactorKind.WHOLE:
                break
            room = size if factor.kind is FactorKind.HALO else factor.size
            here: tuple[str, ...] = ()
            while rest and room % mesh.axes[rest[0]] == 0:
                room //= mesh.axes[rest[0]]
                here += (rest.pop(0),)
            found[name] = here
            if room != 1:
                break
    return found


def _cheapest(
    rule: OpRule,
    have: Sequence[Spec | None],
    operands: Sequence[Slot | None],
    wanted: Sequence[Slot],
    mesh: MeshShape,
) -> Label:
    """The best of the labels that the specs of the op's arrays speak for."""
    proposals: dict[str, set[tuple[str, ...]]] = {}
    seen: set[tuple[Dims, Spec]] = set()
    places = [
        *zip(rule.operands, have, operands, strict=True),
        *((dims, s.spec, s) for dims, s in zip(rule.operands, operands, strict=True) if s),
        *((dims, slot.spec, slot) for dims, slot in zip(rule.results, wanted, strict=True)),
    ]
    for dims, spec, slot in places:
        if spec is None or slot is None or spec.is_replicated or (dims, spec) in seen:
            continue
        seen.add((dims, spec))
        for name, axes in _split(spec, dims, slot.shape, rule, mesh).items():
            proposals.setdefault(name, set()).update(axes[:n] for n in range(1, len(axes) + 1))
    if not proposals:
        return {}
    sizes = _sizes(rule, operands, wanted)
    best: tuple[tuple[float, ...], Label] | None = None
    for label in _candidates(rule, proposals, sizes, mesh):
        cost = _cost(rule, label, have, operands, wanted, mesh)
        if best is None or cost < best[0]:
            best = cost, label
    return {} if best is None else best[1]


def _sizes(
    rule: OpRule, operands: Sequence[Slot | None], results: Sequence[Slot]
) -> Mapping[str, tuple[int, ...]]:
    """Factor → the sizes that its axes have to divide: its own, or its dimensions' if a halo."""
    found: dict[str, tuple[int, ...]] = {}
    for name, factor in rule.factors.items():
        if factor.kind is FactorKind.HALO:
            slots = {"operand": operands, "result": results}
            places = [(slots[side][i], d) for side, i, d in rule.places(name)]
            found[name] = tuple(slot.shape[d] for slot, d in places if slot is not None)
        else:
            found[name] = (factor.size,)
    return found


def _candidates(
    rule: OpRule,
    proposals: Mapping[str, Iterable[tuple[str, ...]]],
    sizes: Mapping[str, tuple[int, ...]],
    mesh: MeshShape,
) -> Iterator[Label]:
    """Every legal way of giving factors one of their proposals, or nothing."""
    names = [name for name in rule.factors if name in proposals]
    options = [[(), *sorted(proposals[name], key=lambda a: (len(a), a))] for name in names]
    if math.prod(map(len, options)) > _MAX_CANDIDATES:
        options = [[(), max(o, key=len)] for o in options]
    for choice in itertools.islice(itertools.product(*options), _MAX_CANDIDATES):
        axes = [axis for some in choice for axis in some]
        label = {name: some for name, some in zip(names, choice, strict=True) if some}
        if len(axes) == len(set(axes)) and _is_legal(rule, label, sizes, mesh):
            yield label


def _is_legal(
    rule: OpRule, label: Label, sizes: Mapping[str, tuple[int, ...]], mesh: MeshShape
) -> bool:
    """Whether axes divide their factors, and can be told where results merge factors."""
    for name, axes in label.items():
        n = mesh.size_of(axes)
        if any(size % n for size in sizes[name]):
            return False
        for side, index, d in rule.places(name):
            if side == "result":
                dim = rule.results[index][d]
                for major in dim[: dim.index(name)]:
                    if mesh.size_of(label.get(major, ())) != rule.factors[major].size:
                        return False
    return True


def _cost(
    rule: OpRule,
    label: Label,
    have: Sequence[Spec | None],
    operands: Sequence[Slot | None],
    wanted: Sequence[Slot],
    mesh: MeshShape,
) -> tuple[float, ...]:
    """What is compared: operands moved at all, bytes, devices left idle."""
    reads = 0.0
    for dims, spec, slot in zip(rule.operands, have, operands, strict=True):
        if spec is not None and slot is not None:
            want = project(dims, rule, label, slot.shape, mesh)
            reads += received_bytes(spec, want, slot.nbytes, mesh)
    partial = {axis for n in rule.of_kind(FactorKind.REDUCTION) for axis in label.get(n, ())}
    total = reads
    for dims, slot in zip(rule.results, wanted, strict=True):
        leaves = project(dims, rule, label, slot.shape, mesh)
        local = slot.nbytes / leaves.shards(mesh)
        n = mesh.size_of(partial)
        scattered = partial <= set(slot.spec.axes)
        total += local * (n - 1) / n * (1 if scattered else 2)
        total += received_bytes(leaves, slot.spec, slot.nbytes, mesh)
    used = mesh.size_of(axis for axes in label.values() for axis in axes)
    return float(reads > 0), total, -used


def received_bytes(have: Spec, want: Spec, nbytes: int, mesh: MeshShape) -> float:
    """Bytes that a device receives, on average, to get from one spec to another.

    Args:
        have: What is there.
        want: What is wanted.
        nbytes: Bytes of the whole array.
        mesh: The mesh.

    Returns:
        The bytes of the wanted part that the device does not hold. In a dimension whose axes
        begin alike, the parts coincide that far; below that a device holds of what it wants the
        share that it holds of everything.
    """
    kept = 1.0
    for h, w in zip(have.dims, want.dims, strict=True):
        common = 0
        while common < min(len(h), len(w)) and h[common] == w[common]:
            common += 1
        kept /= mesh.size_of(h[common:])
    return nbytes / want.shards(mesh) * (1 - kept)
