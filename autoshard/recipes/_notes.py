"""Notes on arrays that a strategy leaves whole: their bytes, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterable

from autoshard.plan import human_bytes
from autoshard.recipes._flow import Flow, Unit
from autoshard.tracing import Leaf


def whole_note(flow: Flow, leaves: Iterable[Leaf], unit: Unit, what: str) -> list[str]:
    """A note on arrays no dimension of which a unit divides.

    Args:
        flow: The labels.
        leaves: Arguments that stayed whole. Scalars and pinned arrays are passed over.
        unit: The axes, used as one.
        what: What happens to them, and why.

    Returns:
        One note, or none.
    """
    program, n = flow.program, flow.mesh.size_of(unit)
    left = [
        leaf for leaf in leaves if program.argument_value(leaf).shape and not flow.is_held(leaf.op)
    ]
    if not left or n == 1:
        return []
    largest = max(left, key=lambda leaf: program.argument_value(leaf).nbytes)
    ways = ways_out(flow, largest, unit)
    shown = ", ".join(
        f"{leaf.path} {list(program.argument_value(leaf).shape)} "
        f"({human_bytes(bytes_per_device(flow, leaf))})"
        for leaf in left[:3]
    )
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    total = human_bytes(sum(bytes_per_device(flow, leaf) for leaf in left))
    return [f"{what}: {shown}{more}, {total} on every device; {ways}"]


def bytes_per_device(flow: Flow, leaf: Leaf) -> int:
    """Bytes of an argument on each device, as far as it is cut already."""
    axes = [axis for axes in flow.labels.get(leaf.op, {}).values() for axis in axes]
    return flow.program.argument_value(leaf).nbytes // flow.mesh.size_of(axes)


def ways_out(flow: Flow, leaf: Leaf, unit: Unit) -> str:
    """What a user can do about an array that a unit does not divide.

    Args:
        flow: The labels: a dimension that is cut already has to divide by both.
        leaf: The array.
        unit: The axes, used as one.

    Returns:
        The ways out: pad, another dimension, fewer devices.
    """
    shape = flow.program.argument_value(leaf).shape
    rule = flow.ruled.rules[leaf.op]
    assert rule is not None
    label = flow.labels.get(leaf.op, {})
    n = flow.mesh.size_of(unit)
    wanted = [
        n * flow.mesh.size_of(axis for name in dim for axis in label.get(name, ()))
        for dim in rule.results[0]
    ]
    uneven = [d for d, size in enumerate(shape) if size % wanted[d]]
    even = [d for d, size in enumerate(shape) if size and d not in uneven]
    ways: list[str] = []
    if uneven:
        d = max(uneven, key=lambda i: shape[i])
        padded = -(-shape[d] // wanted[d]) * wanted[d]
        ways.append(f"pad dimension {d} of {leaf.path} from {shape[d]} to {padded}")
    if even and not label:
        entry = repr(unit[0]) if len(unit) == 1 else repr(unit)
        spec = ", ".join(entry if i == even[0] else "None" for i in range(even[0] + 1))
        ways.append(f"cut dimension {even[0]} with pins={{{leaf.path!r}: PartitionSpec({spec})}}")
    ways.append(f"give the term fewer devices than {'×'.join(unit)} = {n}")
    return f"ways out: {', or '.join(ways)}"
