"""Data parallelism with the state replicated (``dp``)."""

from __future__ import annotations

from autoshard.errors import BatchError
from autoshard.recipes._context import Context, seed_batch
from autoshard.recipes._flow import Flow, Unit


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
        raise BatchError(data_shapes(context), "×".join(unit), flow.mesh.size_of(unit))
    flow.spread(unit)
    return []


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
