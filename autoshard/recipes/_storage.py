"""Where an array that no computation wants cut is stored in shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoshard.recipes._flow import Flow, Unit
from autoshard.recipes._notes import whole_note
from autoshard.rules import FactorKind
from autoshard.tracing import TIE, Leaf


def shard_storage(flow: Flow, leaf: Leaf, unit: Unit, op_id: int | None = None) -> None:
    """Cut an argument on its largest dimension that divides, is not scanned and is still whole.

    Args:
        flow: The labels so far.
        leaf: The argument.
        unit: The axes, used as one.
        op_id: The op that gets the label, where it is not the argument itself: the result that
            replaces it.
    """
    op_id = leaf.op if op_id is None else op_id
    if flow.labelled(op_id, unit) or flow.mesh.size_of(unit) == 1:
        return
    value = flow.program.argument_value(leaf)
    label = flow.labels.get(op_id, {})
    rule = flow.ruled.rules[op_id]
    assert rule is not None
    dims = (rule.results or rule.operands)[0]

    def order(d: int) -> tuple[bool, int, int]:
        return (any(name in label for name in dims[d]), -value.shape[d], d)

    for d in sorted(range(len(value.shape)), key=order):
        if not _is_scanned(flow, value.id, d) and flow.put_dim(
            op_id, d, unit, f"stored in shards of its dimension {d} ({value.shape[d]})"
        ):
            return


def _is_scanned(flow: Flow, value: int, d: int) -> bool:
    """Whether a loop runs over a dimension."""
    program = flow.program
    for consumer, index in program.consumers[value]:
        op, rule = program.ops[consumer], flow.ruled.rules[consumer]
        if op.primitive == TIE and rule is not None:
            kinds = [rule.factors[name].kind for name in rule.operands[index][d]]
            if FactorKind.WHOLE in kinds:
                return True
    return False


def follow_by_structure(flow: Flow, leaf: Leaf, cut: Mapping[int, int], unit: Unit) -> None:
    """State that no op ties to a parameter follows the one at the same place of its own tree.

    Args:
        flow: The labels so far.
        leaf: The state.
        cut: Argument op of each parameter that is cut → the op that says where.
        unit: The axes, used as one.
    """
    program = flow.program
    shape = program.argument_value(leaf).shape
    parts = leaf.path.split("/")
    best, length = None, 0
    for other in program.arguments:
        if other.op not in cut or program.argument_value(other).shape != shape:
            continue
        theirs = other.path.split("/")
        common = 0
        for a, b in zip(reversed(parts), reversed(theirs), strict=False):
            if a != b:
                break
            common += 1
        if common > length:
            best, length = other, common
    if best is None:
        return
    where = flow.dim_of(cut[best.op], unit)
    if where is not None:
        flow.put_dim(leaf.op, where, unit, best.op)


def stored_whole(flow: Flow, leaves: Iterable[Leaf], unit: Unit) -> list[str]:
    """A note on arrays that could not be cut.

    Args:
        flow: The labels.
        leaves: Those that stayed whole, perhaps; scalars are passed over.
        unit: The axes, used as one.

    Returns:
        One note, or none.
    """
    n = flow.mesh.size_of(unit)
    what = f"stored whole, for {'×'.join(unit)} = {n} divides none of their free dimensions"
    return whole_note(flow, leaves, unit, what)
