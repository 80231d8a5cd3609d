"""Data parallelism, with the state replicated (``dp``) or cut over the same devices (``zero3``)."""

from __future__ import annotations

from autoshard.errors import BatchError
from autoshard.plan import human_bytes
from autoshard.recipes._context import Context, seed_batch
from autoshard.recipes._flow import Flow, Unit
from autoshard.rules import FactorKind
from autoshard.tracing import TIE, Leaf


def data_parallel(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Every device computes its part of the batch; parameters are replicated.

    Gradients are partial sums over the batch and are all-reduced where they are made.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes for the user.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    seeded = [op_id for op_id in context.roles.data if seed_batch(flow, op_id, unit)]
    if not seeded and flow.mesh.size_of(unit) > 1:
        program = flow.program
        shapes = {
            leaf.path: program.argument_value(leaf).shape
            for leaf in program.arguments
            if leaf.op in context.roles.data
        }
        raise BatchError(shapes, "×".join(unit), flow.mesh.size_of(unit))
    flow.spread(unit)
    return []


def zero3(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Data parallelism with parameters, gradients and optimizer state cut over its devices.

    ZeRO stage 3 (Rajbhandari et al. 2020, section 5.3). A parameter is gathered by each op that
    reads it, its gradient is reduce-scattered, and the update runs on the shards. The optimizer's
    state follows its parameter because the update combines them element by element.

    Args:
        flow: The labels so far; tensor parallelism has to be there already.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on parameters no dimension of which can be cut.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    data_parallel(flow, context, unit)
    program = flow.program
    state = context.roles.state_of_argument
    parameters = [leaf for leaf in program.arguments if leaf.op in context.parameters]
    for leaf in parameters:
        _shard_storage(flow, leaf.op, unit)
    flow.spread(unit)
    cut = {leaf.op: leaf for leaf in parameters if flow.labelled(leaf.op, unit)}
    for leaf in program.arguments:
        if leaf.op in state and not flow.labelled(leaf.op, unit):
            _follow_by_structure(flow, leaf, list(cut.values()), unit)
    flow.spread(unit)
    for leaf in program.arguments:  # scales that meet the batch only in statistics
        if leaf.op in context.learned:
            _shard_storage(flow, leaf.op, unit)
    flow.spread(unit)
    left = [
        leaf
        for leaf in program.arguments
        if (leaf.op in context.learned or leaf.op in context.parameters)
        and not flow.labelled(leaf.op, unit)
        and program.argument_value(leaf).shape
    ]
    if not left or flow.mesh.size_of(unit) == 1:
        return []
    nbytes = sum(program.argument_value(leaf).nbytes for leaf in left)
    shown = ", ".join(leaf.path for leaf in left[:3]) + (", …" if len(left) > 3 else "")
    return [
        f"stored whole, for {'×'.join(unit)} = {flow.mesh.size_of(unit)} divides none of their "
        f"free dimensions: {shown} ({human_bytes(nbytes)} in all)"
    ]


def _shard_storage(flow: Flow, op_id: int, unit: Unit) -> None:
    """Cut an argument on its largest dimension that divides, is not scanned and is still whole."""
    if flow.labelled(op_id, unit) or flow.mesh.size_of(unit) == 1:
        return
    program = flow.program
    value = program.values[program.ops[op_id].results[0]]
    label = flow.labels.get(op_id, {})
    rule = flow.ruled.rules[op_id]
    assert rule is not None

    def order(d: int) -> tuple[bool, int, int]:
        return (any(name in label for name in rule.results[0][d]), -value.shape[d], d)

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


def _follow_by_structure(flow: Flow, leaf: Leaf, parameters: list[Leaf], unit: Unit) -> None:
    """State that no op ties to a parameter follows the one at the same place of its own tree."""
    program = flow.program
    shape = program.argument_value(leaf).shape
    parts = leaf.path.split("/")
    best, length = None, 0
    for other in parameters:
        if program.argument_value(other).shape != shape:
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
    where = flow.where(program.argument_value(best).id, unit)
    if where is not None:
        flow.put_dim(leaf.op, where, unit, best.op)
