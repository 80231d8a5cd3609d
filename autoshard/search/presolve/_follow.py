"""Followers: nodes whose strategy is a function of a neighbour's.

An edge that leaves every strategy of one end exactly one partner makes the other end a function of
it. Where that is a bijection (an elementwise op and its operand) whole chains collapse into one
node; where it is many-to-one, the smaller end follows the larger. Merging is exact: costs and
memory of the follower are added to its root, strategy by strategy. Merging anything that is *not*
a function would lose optima.
"""

from __future__ import annotations

import numpy as np

from autoshard.search._model import Ints, Lift, Model
from autoshard.search.presolve._restrict import contract

__all__ = ["merge_followers"]


def merge_followers(model: Model) -> tuple[Model, Lift] | None:
    """Merges every follower into its root.

    Returns:
        The smaller model and its lift, or None if nobody follows. Needs arc consistency.
    """
    bijections: dict[int, list[tuple[int, Ints]]] = {}
    functions: dict[int, tuple[int, Ints]] = {}
    for matrix, (u, v) in zip(model.edge_costs, model.edge_nodes.tolist(), strict=True):
        if min(matrix.shape) < 2 or np.isfinite(matrix.sum()):
            continue
        allowed = np.isfinite(matrix)
        forward = (allowed.sum(1) == 1).all()
        backward = (allowed.sum(0) == 1).all()
        if forward and backward:
            bijections.setdefault(u, []).append((v, allowed.argmax(1)))
            bijections.setdefault(v, []).append((u, allowed.argmax(0)))
        elif forward:
            functions.setdefault(v, (u, allowed.argmax(1)))
        elif backward:
            functions.setdefault(u, (v, allowed.argmax(0)))
    if not bijections and not functions:
        return None
    root = np.arange(len(model.costs))
    maps: dict[int, Ints] = {}
    if bijections:
        _walk(bijections, root, maps)
        return contract(model, root, maps, "followers")
    # A many-to-one follower has fewer strategies than its leader, so leaders cannot form a cycle.
    for node in sorted(functions, key=lambda n: (-len(model.costs[n]), n)):
        leader, mapping = functions[node]
        root[node] = root[leader]
        maps[node] = mapping[maps[leader]] if leader in maps else mapping
    return contract(model, root, maps, "followers")


def _walk(bijections: dict[int, list[tuple[int, Ints]]], root: Ints, maps: dict[int, Ints]) -> None:
    """Breadth first over bijections, composing them from each component's smallest node."""
    for start in sorted(bijections):
        if start in maps or root[start] != start:
            continue
        seen = {start}
        queue = [start]
        for node in queue:
            for other, mapping in bijections[node]:
                if other in seen:
                    continue
                seen.add(other)
                root[other] = start
                maps[other] = mapping[maps[node]] if node in maps else mapping
                queue.append(other)
