"""Data parallelism with the state replicated (``dp``)."""

from __future__ import annotations

from autoshard.errors import BatchError
from autoshard.recipes._context import Context, seed_batch
from autoshard.recipes._flow import Flow, Unit, Verdict
from autoshard.recipes._notes import whole_note
from autoshard.rules import OpRule
from autoshard.tracing import Op


def data_parallel(flow: Flow, context: Context, unit: Unit, *, strict: bool = False) -> list[str]:
    """Every device computes its part of the batch; parameters are replicated.

    Gradients are partial sums over the batch and are all-reduced where they are made.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.
        strict: Whether ops on the batch are cut by nothing else, whatever their operands say:
            where other ops already carry the unit on something that is not the batch.

    Returns:
        Notes for the user.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    seeded = [op_id for op_id in context.roles.data if seed_batch(flow, op_id, unit)]
    pinned = any(flow.is_held(op_id) for op_id in context.roles.data)
    if not seeded and not pinned and flow.mesh.size_of(unit) > 1:
        raise BatchError(data_shapes(context), "×".join(unit), flow.mesh.size_of(unit))

    def decide(op: Op, rule: OpRule) -> Verdict:
        del rule
        name = context.batch_factor(op.id)
        return None if name is None else (name, "batch dimension of the data")

    flow.spread(unit, decide if strict else None)
    data = [leaf for leaf in flow.program.arguments if leaf.op in context.roles.data]
    whole = [leaf for leaf in data if not flow.labelled(leaf.op, unit)]
    what = f"data of which every device gets all, for {'×'.join(unit)} does not divide its batch"
    return whole_note(flow, whole, unit, what)


def replicate(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Every device does the same: what one device does, as a thing to compare with.

    Args:
        flow: The labels so far; they stay as they are.
        context: The program.
        unit: The axes.

    Returns:
        Nothing to tell.
    """
    del flow, context, unit
    return []


def data_shapes(context: Context) -> dict[str, tuple[int, ...]]:
    """The shapes of the data arguments by path."""
    program = context.ruled.program
    return {
        leaf.path: program.argument_value(leaf).shape
        for leaf in program.arguments
        if leaf.op in context.roles.data
    }
