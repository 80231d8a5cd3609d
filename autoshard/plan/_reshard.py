"""The steps of a reshard: a direct change of two dimensions at once can be ruinous.

XLA turns ``P(y,-,x) → P(-,(x,y),-)`` into a full rematerialization (every device gets the whole
array); through ``P(-,y,x)`` it is all-to-alls only. A chain names the stations in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoshard.plan._mesh import MeshShape
from autoshard.plan._spec import Spec


def reshard_chain(
    source: Spec, target: Spec, shape: Sequence[int], mesh: MeshShape
) -> tuple[Spec, ...]:
    """Stations from one spec to another, the target last.

    Args:
        source: What is there.
        target: What is wanted; same rank.
        shape: Global shape of the array.
        mesh: The mesh.

    Returns:
        Specs to pass through. One step when at most one axis moves between dimensions; otherwise
        each step moves one axis from where it is to the end of the dimension where it is wanted,
        so that every step is one all-to-all. Where the moves leave an order of axes that is not
        the wanted one, a last step puts it right. A station into which the array cannot be cut
        evenly is left out: a constraint to it would replicate the array.
    """
    home = {axis: d for d, dim in enumerate(source.dims) for axis in dim}
    goal = {axis: d for d, dim in enumerate(target.dims) for axis in dim}
    moving = [axis for axis in target.axes if axis in home and home[axis] != goal[axis]]
    if len(moving) < 2:
        return (target,)
    chain: list[Spec] = []
    dims = [list(dim) for dim in source.dims]
    for axis in sorted(moving, key=lambda a: (target.dims[goal[a]].index(a), goal[a])):
        dims[home[axis]].remove(axis)
        dims[goal[axis]].append(axis)
        station = Spec(tuple(map(tuple, dims)))
        if station.divides(shape, mesh):
            chain.append(station)
    if not chain or chain[-1] != target:
        chain.append(target)
    return tuple(chain)
