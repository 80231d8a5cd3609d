"""Which gathers of an array are repeated, and which are shared by several readers.

A reader that does not depend on another one can use the same gathered copy: query, key and value
projections read one. A reader that depends on what an earlier one made runs later, in the typical
case in the backward pass, and the copy would have to stay alive until then. It gathers anew, as
ZeRO stage 3 does with parameters (Rajbhandari et al. 2020, section 7.2.2) and sequence parallelism
with activations (Korthikanti et al. 2022, section 4.2.2).
"""

from __future__ import annotations

from collections.abc import Mapping

from autoshard.plan._labelling import Labelling
from autoshard.plan._plan import ConstraintKey
from autoshard.plan._spec import Spec
from autoshard.tracing import TIE, Op


def find_regathers(
    labelling: Labelling, constraints: Mapping[ConstraintKey, tuple[Spec, ...]]
) -> frozenset[ConstraintKey]:
    """Operands whose gather starts anew although the array was gathered before.

    Args:
        labelling: Labels of the program.
        constraints: Its constraints.

    Returns:
        The first reader of each repeated gather, in program order; the readers after it share its
        copy, up to the next repetition.
    """
    program = labelling.ruled.program
    latest: dict[tuple[int, Spec, int | None], int] = {}
    behind: dict[int, int] = {}  # value → the gathers on which it depends, one bit each
    bits = 0
    found: set[ConstraintKey] = set()
    for op in program.ops:
        operands = [(i, o) for i, o in enumerate(op.operands) if isinstance(o, int)]
        depends = 0
        for _, operand in operands:
            depends |= behind.get(operand, 0)
        after = depends
        for index, operand in operands:
            key: ConstraintKey = (op.id, "operand", index)
            if key not in constraints or not _is_gather(labelling, op, operand, constraints[key]):
                continue
            group = (operand, constraints[key][-1], op.parent)
            bit = latest.get(group)
            if bit is None or depends & bit:
                if bit is not None:
                    found.add(key)
                bit = 1 << bits
                bits += 1
                latest[group] = bit
            after |= bit
        if after:
            for result in op.results:
                behind[result] = after
    return frozenset(found)


def _is_gather(labelling: Labelling, op: Op, operand: int, chain: tuple[Spec, ...]) -> bool:
    """Whether a constraint makes whole copies that are worth giving up.

    Vectors are too small to care, and a rematerialized body runs at one place of the backward
    pass: there one gather serves all readers.
    """
    program = labelling.ruled.program
    parent = program.ops[op.parent].primitive if op.parent is not None else ""
    if op.primitive == TIE or "remat" in parent:
        return False
    mesh = labelling.mesh
    gathered = chain[-1].shards(mesh) < labelling.value_spec(operand).shards(mesh)
    return gathered and len(program.values[operand].shape) >= 2
