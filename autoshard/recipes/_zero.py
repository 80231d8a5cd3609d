"""ZeRO: data parallelism that stores the state of training in shards (Rajbhandari et al. 2020).

Stage 1 cuts the optimizer's state, stage 2 also the gradients, stage 3 also the parameters. All
three seed one dimension of each parameter and let the update carry it: the ops that combine a
parameter, its gradient and its moments element by element tie them together, whatever the
optimizer. In stages 1 and 2 the seed is the *new* parameter, a result, and the argument stays
whole: the update runs on shards and the new parameters are gathered once, so that the traffic is
that of data parallelism (section 7.2.1).
"""

from __future__ import annotations

from autoshard.recipes._context import Context
from autoshard.recipes._data_parallel import data_parallel
from autoshard.recipes._flow import Flow, Unit
from autoshard.recipes._storage import follow_by_structure, shard_storage, stored_whole
from autoshard.tracing import TIE, Leaf


def zero1(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Data parallelism with the optimizer's state cut over its devices (section 5.1).

    A gradient that goes straight into the update is reduce-scattered, one that is accumulated
    over microbatches or returned is kept whole.

    Args:
        flow: The labels so far; tensor parallelism has to be there already.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on parameters whose state cannot be cut.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    whole = _accumulators(context)
    state = context.roles.argument_of_result
    whole.update(leaf.op for leaf in flow.program.results if leaf.op not in state)
    return _cut_update(flow, context, unit, whole)


def zero2(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Data parallelism with optimizer state and gradients cut over its devices (section 5.2).

    Args:
        flow: The labels so far; tensor parallelism has to be there already.
        context: The program.
        unit: The axes, used as one.

    Returns:
        Notes on parameters whose state cannot be cut.

    Raises:
        BatchError: No data argument can be cut into as many parts.
    """
    return _cut_update(flow, context, unit, set())


def zero3(flow: Flow, context: Context, unit: Unit) -> list[str]:
    """Data parallelism with parameters, gradients and optimizer state cut (section 5.3).

    A parameter is gathered by each op that reads it, its gradient is reduce-scattered, and the
    update runs on the shards.

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
    parameters = [leaf for leaf in program.arguments if leaf.op in context.parameters]
    for leaf in parameters:
        shard_storage(flow, leaf, unit)
    flow.spread(unit)
    cut = {leaf.op: leaf.op for leaf in parameters if flow.labelled(leaf.op, unit)}
    for leaf in program.arguments:
        if leaf.op in context.roles.state_of_argument and not flow.labelled(leaf.op, unit):
            follow_by_structure(flow, leaf, cut, unit)
    flow.spread(unit)
    for leaf in program.arguments:  # scales that meet the batch only in statistics
        if leaf.op in context.learned:
            shard_storage(flow, leaf, unit)
    flow.spread(unit)
    left = [leaf for leaf in _trained(context) if not flow.labelled(leaf.op, unit)]
    return stored_whole(flow, left, unit)


def _cut_update(flow: Flow, context: Context, unit: Unit, whole: set[int]) -> list[str]:
    """Cut the update, not the parameters that it starts from.

    Args:
        flow: The labels so far.
        context: The program.
        unit: The axes, used as one.
        whole: Ops that may not be cut besides the parameters.

    Returns:
        Notes.
    """
    data_parallel(flow, context, unit)
    program, pairs = flow.program, context.roles.state_of_argument
    trained = [leaf for leaf in _trained(context) if leaf.op in pairs]
    kept = {leaf.op for leaf in _trained(context)} | whole
    among = {op.id for op in program.ops} - kept
    for leaf in trained:
        shard_storage(flow, leaf, unit, pairs[leaf.op])
    flow.spread(unit, among=among)
    cut = {leaf.op: pairs[leaf.op] for leaf in trained if flow.labelled(pairs[leaf.op], unit)}
    for leaf in program.arguments:
        if leaf.op in pairs and leaf.op not in kept and not flow.labelled(leaf.op, unit):
            follow_by_structure(flow, leaf, cut, unit)
    flow.spread(unit, among=among)
    return stored_whole(flow, [leaf for leaf in trained if leaf.op not in cut], unit)


def _trained(context: Context) -> list[Leaf]:
    """Parameters: what ops on the batch read, and what the loss depends on."""
    return [
        leaf
        for leaf in context.ruled.program.arguments
        if leaf.op in context.parameters or leaf.op in context.learned
    ]


def _accumulators(context: Context) -> set[int]:
    """Carries of loops that start from nothing, such as sums of gradients over microbatches."""
    program, known = context.ruled.program, context.parameter_values
    return {
        op.id
        for op in program.ops
        if op.primitive == TIE
        and op.params["kind"] == "carry"
        and not (isinstance(op.operands[0], int) and op.operands[0] in known)
    }
