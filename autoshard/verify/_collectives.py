"""The collectives of an optimized HLO module: kind, mesh axes, bytes and how often they run."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from autoshard.errors import HloFormatError, HloMeshError
from autoshard.verify._groups import (
    IRREGULAR,
    MeshAxes,
    axes_of_groups,
    axes_of_pairs,
    parse_groups,
    parse_pairs,
)
from autoshard.verify._loops import Executions, executions
from autoshard.verify._module import Computation, Instruction, Module, Source
from autoshard.verify._scatter import sliced_operands
from autoshard.verify._shapes import Shape
from autoshard.verify._text import parse_module

Kind = Literal[
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
]
_KINDS = frozenset(get_args(Kind))
_CHAIN = re.compile(r'chain_id="?(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective instruction. All bytes are per device and per execution.

    Attributes:
        kind: What it does. An all-reduce that the TPU backend has fused with the slices of its
            result is a reduce-scatter.
        axes: Mesh axes that its groups span, in the mesh's order; part of an axis is written
            ``data:(2)4``, groups that are no product of axes give ``("?",)``. For a
            collective-permute, the axes along which data moves.
        group_size: Devices that take part together: the largest group's size; for a
            collective-permute the product of its axes' sizes.
        operand_bytes: Sum over the operands.
        result_bytes: Sum over the results.
        scalar_bytes: The part of `operand_bytes` in arrays of at most one element.
        sliced_bytes: For an all-reduce, the part of `operand_bytes` (without scalars) of whose sum
            each device uses only a slice at its own offset.
        n_operands: More than one where XLA has combined several collectives, and for an
            all-to-all that takes one operand per peer.
        dtypes: Element types of the operands, each once.
        count: Executions in one run of the program, loops multiplied out; None where a loop has an
            unknown trip count.
        conditional: Whether a conditional decides if it runs; `count` is then an upper bound.
        is_async: Whether it is split into a start and a done.
        op_name: JAX's name stack, as in ``jit(step)/transpose(jvp())/dot_general``.
        source_file: Where the user wrote it; empty if unknown.
        source_line: The line in that file; 0 if unknown.
        name: The instruction's name in the text.
        computation: The computation's name in the text.
    """

    kind: Kind
    axes: tuple[str, ...]
    group_size: int
    operand_bytes: int
    result_bytes: int
    scalar_bytes: int
    sliced_bytes: int
    n_operands: int
    dtypes: tuple[str, ...]
    count: int | None
    conditional: bool
    is_async: bool
    op_name: str
    source_file: str
    source_line: int
    name: str
    computation: str

    @property
    def is_scalar(self) -> bool:
        """Whether it carries nothing but single numbers, such as a loss."""
        return self.scalar_bytes == self.operand_bytes

    @property
    def is_regular(self) -> bool:
        """Whether its groups are a product of whole mesh axes."""
        return not any(axis == IRREGULAR or ":" in axis for axis in self.axes)

    @property
    def is_sliced(self) -> bool:
        """Whether it is an all-reduce of which each device uses only its own slices.

        The CPU backend keeps such a pair where others have a reduce-scatter. Scalars that were
        combined with it do not count.
        """
        return 0 < self.sliced_bytes == self.operand_bytes - self.scalar_bytes

    @property
    def logical_kind(self) -> Kind:
        """The kind, with a sliced all-reduce taken for the reduce-scatter that it stands for."""
        return "reduce-scatter" if self.is_sliced else self.kind

    @property
    def traffic_bytes(self) -> float:
        """Bytes that each device sends per execution, from `traffic_bytes`."""
        return traffic_bytes(self.kind, self.group_size, self.operand_bytes, self.result_bytes)


def traffic_bytes(kind: Kind, group_size: int, operand_bytes: int, result_bytes: int) -> float:
    """Bytes that one device sends in a bandwidth-optimal (ring) implementation.

    With d devices: all-gather (d-1)/d of the result, reduce-scatter (d-1)/d of the operand,
    all-reduce both one after the other, hence 2(d-1)/d of the operand; all-to-all (d-1)/d of the
    operand, for 1/d stays; permute and broadcast the operand. For a ragged all-to-all the buffers
    are taken as full.

    Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication
    Operations in MPICH", IJHPCA 19(1), 2005; for the all-reduce P. Patarasuk, X. Yuan, "Bandwidth
    optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009. The bus
    bandwidths of nccl-tests use the same factors.

    Args:
        kind: The collective.
        group_size: Devices d that take part.
        operand_bytes: Per device, before.
        result_bytes: Per device, after.

    Example:
        >>> traffic_bytes("all-reduce", 4, operand_bytes=1000, result_bytes=1000)
        1500.0
    """
    if group_size <= 1:
        return 0.0
    others = (group_size - 1) / group_size
    match kind:
        case "all-gather":
            return others * result_bytes
        case "all-reduce":
            return 2 * others * operand_bytes
        case "all-to-all" | "ragged-all-to-all" | "reduce-scatter":
            return others * operand_bytes
        case "collective-broadcast" | "collective-permute":
            return float(operand_bytes)


def collectives(text: str, mesh: Any) -> tuple[Collective, ...]:
    """Every collective of a compiled program, in the text's order.

    A start and its done count once, and so do the steps into which the TPU backend cuts a
    collective that it overlaps with several fusions.

    Args:
        text: Optimized HLO, as ``compiled.as_text()`` returns it.
        mesh: The mesh that the program was compiled for: anything that `MeshAxes.of` takes.

    Raises:
        HloFormatError: If the text cannot be read.
        HloMeshError: If the mesh is not the program's.

    Example:
        >>> text = '''HloModule m, num_partitions=8
        ... ENTRY %main (p: f32[16,32]) -> f32[16,128] {
        ...   %p = f32[16,32]{1,0} parameter(0)
        ...   ROOT %g = f32[16,128]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={1}
        ... }'''
        >>> (gather,) = collectives(text, {"data": 2, "model": 4})
        >>> gather.kind, gather.axes, gather.result_bytes, gather.count
        ('all-gather', ('model',), 8192, 1)
    """
    axes = MeshAxes.of(mesh)
    module = parse_module(text)
    if module.partitions != axes.size:
        raise HloMeshError(
            f"{module.name} is compiled for {module.partitions} device(s), but the mesh "
            f"{dict(zip(axes.names, axes.sizes, strict=True))} has {axes.size}.\n"
            "Where nothing tells jax.jit of the mesh, it compiles for one device: give it "
            "shardings or arrays that lie on the mesh"
        )
    try:
        return tuple(_collectives(module, axes))
    except (IndexError, ValueError) as error:
        raise HloFormatError(f"{module.name} contradicts itself ({error})") from error


def _collectives(module: Module, axes: MeshAxes) -> Iterator[Collective]:
    counts = executions(module)
    chains: set[tuple[str, str, str]] = set()
    for computation in module.computations.values():
        # How often a computation runs that nothing calls is unknown, too.
        times = counts.get(computation.name, Executions(None))
        for instruction in computation.instructions.values():
            if instruction.opcode.removesuffix("-start") not in _KINDS:
                continue
            if chain := _chain(module, computation, instruction):
                if chain in chains:
                    continue
                chains.add(chain)
            yield _read(module, axes, computation, instruction, times)


def _read(
    module: Module,
    axes: MeshAxes,
    computation: Computation,
    instruction: Instruction,
    times: Executions,
) -> Collective:
    kind = cast(Kind, instruction.opcode.removesuffix("-start"))
    callers = [call.instruction for call in module.calls.get(computation.name, ())]
    wrappers = {caller.opcode for caller in callers}
    operands = [operand.shape for operand in computation.operands(instruction)]
    operand_bytes = sum(shape.bytes for shape in operands)
    result_bytes = _result(instruction).bytes
    spanned, group_size = _span(instruction, axes)
    sliced_bytes = 0
    if kind == "all-reduce":
        slices = zip(operands, sliced_operands(module, computation, instruction), strict=True)
        sliced_bytes = sum(shape.bytes for shape, sliced in slices if sliced and shape.size > 1)
        if sliced_bytes == operand_bytes and "fusion" in wrappers:
            kind, result_bytes, sliced_bytes = "reduce-scatter", operand_bytes // group_size, 0
    # An instruction inside a fusion may carry no metadata; then the fusion does.
    origin = next((i for i in (instruction, *callers) if "op_name" in i.metadata), instruction)
    source = module.source(origin) or Source("", 0)
    return Collective(
        kind=kind,
        axes=spanned,
        group_size=group_size,
        operand_bytes=operand_bytes,
        result_bytes=result_bytes,
        scalar_bytes=sum(shape.bytes for shape in operands if shape.size <= 1),
        sliced_bytes=sliced_bytes,
        n_operands=len(operands),
        dtypes=tuple(dict.fromkeys(leaf.dtype for shape in operands for leaf in shape.leaves)),
        count=times.count,
        conditional=times.conditional,
        is_async=instruction.opcode.endswith("-start") or "async-start" in wrappers,
        op_name=origin.metadata.get("op_name", ""),
        source_file=source.file,
        source_line=source.line,
        name=instruction.name,
        computation=computation.name,
    )


def _span(instruction: Instruction, axes: MeshAxes) -> tuple[tuple[str, ...], int]:
    """The axes that the groups span, and the size of the largest group."""
    if (pairs := instruction.attribute("source_target_pairs")) is not None:
        moved = axes_of_pairs(parse_pairs(pairs), axes)
        return moved, math.prod(axes.sizes[axes.names.index(axis)] for axis in moved)
    text = instruction.attribute("replica_groups") or "{}"
    if device_ids := instruction.attribute("device_ids"):  # the comma before it split the two
        text = f"{text}, device_ids={device_ids}"
    groups = parse_groups(text, axes.size)
    return axes_of_groups(groups, axes), max(map(len, groups))


def _result(instruction: Instruction) -> Shape:
    """The shape of the result alone: most starts return it behind their operands."""
    shape = instruction.shape
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        if len(shape.elements) < 2:
            raise HloFormatError(f"{instruction.opcode} has to return (operands, results, …)")
        return shape.elements[1]
    return shape


def _chain(
    module: Module, computation: Computation, instruction: Instruction
) -> tuple[str, str, str] | None:
    """What the steps have in common into which the TPU backend cuts a collective.

    To overlap it with several fusions, it puts a copy of the collective into each, under one
    ``chain_id``.
    """
    chain = _CHAIN.search(instruction.attribute("frontend_attributes") or "")
    calls = module.calls.get(computation.name, ())
    if chain is None or len(calls) != 1 or calls[0].instruction.opcode != "fusion":
        return None
    return calls[0].caller.name, chain[1], instruction.attribute("channel_id") or ""
