"""Sequential tree-reweighted message passing (TRW-S), in batches of independent nodes.

Kolmogorov, "Convergent tree-reweighted message passing for energy minimization", IEEE TPAMI 28
(2006). Nodes are visited in order; each sends a message along every edge to later nodes, then the
order is reversed. Every pass yields a lower bound on the cost of every labelling, and the bound
never falls while node costs stay the same.

Two nodes of one *level* (longest path from the start of the order) never touch, so a level is one
batch: its edges, grouped by shape, are a handful of array operations. The result is the same as
that of the sequential algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoshard.search._model import Floats, Ints, Model

__all__ = ["Messages", "estimated_bytes"]


def estimated_bytes(model: Model) -> int:
    """Memory that message passing needs for a model, roughly."""
    ends = int(model.sizes[model.edge_nodes].sum())
    # The last term is what solving one region takes, see `_neighbourhood`.
    return 8 * (3 * model.entries + 12 * ends) + 2**27


@dataclass(slots=True)
class _Batch:
    """Edges of one shape whose sending nodes share a level, in one direction.

    Attributes:
        sender: Flat positions of the senders' strategies, ``[edges, a]``.
        receiver: Flat positions of the receivers' strategies, ``[edges, b]``.
        inward: Where the messages to the senders are kept, ``[edges, a]``.
        outward: Where the messages to the receivers are kept, ``[edges, b]``.
        share: Part of the sender's belief that each edge gets, ``[edges, 1]``.
        nodes: The senders, ``[edges]``.
        receivers: The receivers, ``[edges]``.
        costs: The matrices, senders first, ``[edges, a, b]``.
    """

    sender: Ints
    receiver: Ints
    inward: Ints
    outward: Ints
    share: Floats
    nodes: Ints
    receivers: Ints
    costs: Floats


# More batches than this cost more in overhead than longer chains gain; see `_order`.
_MOST_BATCHES = 6_000


class Messages:
    """Messages of a model, its lower bound, and labellings rounded from them.

    The pairwise part of the model alone: prices of memory and hinge terms come in as `node_costs`.
    """

    def __init__(self, model: Model) -> None:
        """Lays out the batches; messages start at zero."""
        sizes = model.sizes
        self.offsets: Ints = np.concatenate([[0], np.cumsum(sizes)])
        self.node_costs: Floats = np.concatenate(model.costs)
        self._count = len(sizes)
        rank, levels = _order(model)
        flipped = rank[model.edge_nodes[:, 0]] > rank[model.edge_nodes[:, 1]]
        ends = np.where(flipped[:, None], model.edge_nodes[:, ::-1], model.edge_nodes)
        matrices = [
            m.T if f else m for m, f in zip(model.edge_costs, flipped.tolist(), strict=True)
        ]
        widths = sizes[ends]
        starts = np.concatenate([[0], np.cumsum(widths.ravel())])
        to_u, to_v = starts[:-1].reshape(-1, 2).T if len(widths) else (starts[:0], starts[:0])
        self._messages: Floats = np.zeros(int(starts[-1]))
        self._receiving: Ints = _ranges(self.offsets[ends.ravel()], widths.ravel())
        up = np.bincount(ends[:, 0], minlength=self._count)
        down = np.bincount(ends[:, 1], minlength=self._count)
        share = 1.0 / np.maximum(np.maximum(up, down), 1)
        self._forward = self._batches(ends, matrices, levels, share, to_u, to_v)
        self._backward = self._batches(
            ends[:, ::-1], [m.T for m in matrices], levels, share, to_v, to_u
        )[::-1]
        self._level_nodes = _by_level_and_size(levels, sizes)
        self._places: dict[tuple[int, int], list[Floats]] = {}

    def _batches(
        self,
        ends: Ints,
        matrices: list[Floats],
        levels: Ints,
        share: Floats,
        inward: Ints,
        outward: Ints,
    ) -> list[list[_Batch]]:
        """Batches by level of the sending side, ascending; senders come first in `ends`."""
        by_level: list[list[_Batch]] = [[] for _ in range(int(levels.max(initial=0)) + 1)]
        groups: dict[tuple[int, int, int], list[int]] = {}
        sender, receiver = ends[:, 0], ends[:, 1]
        at = levels[sender].tolist()
        for e, matrix in enumerate(matrices):
            groups.setdefault((at[e], *matrix.shape), []).append(e)
        for (level, *_), members in sorted(groups.items()):
            stack = np.stack([matrices[e] for e in members])
            a, b = np.arange(stack.shape[1]), np.arange(stack.shape[2])
            nodes = sender[members]
            by_level[level].append(
                _Batch(
                    sender=self.offsets[nodes, None] + a,
                    receiver=self.offsets[receiver[members], None] + b,
                    inward=inward[members, None] + a,
                    outward=outward[members, None] + b,
                    share=share[nodes, None],
                    nodes=nodes,
                    receivers=receiver[members],
                    costs=stack,
                )
            )
        return by_level

    def beliefs(self) -> Floats:
        """Node costs plus all messages to each node, flat."""
        total = np.bincount(self._receiving, self._messages, len(self.node_costs))
        return self.node_costs + total

    def add_to_edge(self, pair: tuple[int, int], matrix: Floats) -> None:
        """Adds to the costs of one edge, for hinge terms whose price changes.

        Args:
            pair: Ends of the edge, ascending; the model must have it.
            matrix: What to add, ``[strategies of the lower end, of the upper end]``.
        """
        if not self._places:
            for levels in (self._forward, self._backward):
                for batch in (b for level in levels for b in level):
                    ends = zip(batch.nodes.tolist(), batch.receivers.tolist(), strict=True)
                    for k, (u, v) in enumerate(ends):
                        self._places.setdefault((u, v), []).append(batch.costs[k])
        u, v = pair
        for view in self._places[u, v]:
            view += matrix
        for view in self._places[v, u]:
            view += matrix.T

    def sweep(self) -> float:
        """One pass forward and one back.

        Returns:
            A lower bound on node costs plus edge costs of every labelling.
        """
        self._pass(self._forward)
        return self._pass(self._backward)

    def _pass(self, levels: list[list[_Batch]]) -> float:
        belief, messages = self.beliefs(), self._messages
        bound = 0.0
        for level in levels:
            for batch in level:
                own = belief[batch.sender]
                own *= batch.share
                own -= messages[batch.inward]
                sent = (batch.costs + own[:, :, None]).min(1)
                least = sent.min(1)
                sent -= least[:, None]
                bound += float(least.sum())
                change = sent - messages[batch.outward]
                messages[batch.outward] = sent
                np.add.at(belief, batch.receiver.ravel(), change.ravel())
        # A node's belief does not change after it has sent in this pass, so the part that it gave
        # to its edges is `share` of what stands here; the rest is bounded by its minimum.
        lowest = np.minimum.reduceat(belief, self.offsets[:-1])
        given = np.zeros(self._count)
        for level in levels:
            for batch in level:
                given += np.bincount(batch.nodes, batch.share[:, 0], self._count)
        return bound + float(((1.0 - np.minimum(given, 1.0)) * lowest).sum())

    def round(self, *, backward: bool = False) -> Ints:
        """Labels nodes in order, each given those before it and the messages from those after.

        Args:
            backward: Go through the nodes in reverse.

        Returns:
            Labels, ``[nodes]``.
        """
        levels = self._backward if backward else self._forward
        nodes = self._level_nodes[::-1] if backward else self._level_nodes
        # Beliefs hold messages from both sides; those from labelled nodes are replaced by the
        # exact costs as the labels become known.
        score = self.beliefs()
        labels = np.zeros(self._count, np.int64)
        for level, groups in zip(levels, nodes, strict=True):
            for members, positions in groups:
                labels[members] = score[positions].argmin(1)
            for batch in level:
                exact = batch.costs[np.arange(len(batch.nodes)), labels[batch.nodes]]
                exact -= self._messages[batch.outward]
                np.add.at(score, batch.receiver.ravel(), exact.ravel())
        return labels


def _order(model: Model) -> tuple[Ints, Ints]:
    """The order of the nodes, and their levels in it.

    The nodes' own order is that of the program, and its long chains carry messages furthest in one
    pass. Where a graph is so narrow, or so varied in shape, that its batches become tiny, levels
    are folded: level modulo B comes first, so that chains end after about B nodes and what was B
    levels apart is done at once.

    Returns:
        Rank of every node, and level of every node, ``[nodes]`` each.
    """
    sizes = model.sizes
    rank = np.arange(len(sizes))
    natural = _levels(model.edge_nodes, rank)
    levels, fold = natural, 512
    shapes = sizes[model.edge_nodes]
    while _count_batches(model.edge_nodes, shapes, levels) > _MOST_BATCHES and fold >= 4:
        rank = np.empty(len(sizes), np.int64)
        rank[np.lexsort((np.arange(len(sizes)), natural, natural % fold))] = np.arange(len(sizes))
        levels = _levels(model.edge_nodes, rank)
        fold //= 2
    return rank, levels


def _count_batches(edge_nodes: Ints, shapes: Ints, levels: Ints) -> int:
    lower = levels[edge_nodes].min(1)
    return len(np.unique(np.column_stack([lower, shapes]), axis=0))


def _levels(edge_nodes: Ints, rank: Ints) -> Ints:
    """Longest path from the start of the order to every node, along edges of ascending rank."""
    ranked = np.sort(rank[edge_nodes], axis=1)
    level = [0] * len(rank)
    # All edges into a node come from lower ranks, whose levels are final when it is reached.
    for u, v in ranked[np.argsort(ranked[:, 1], kind="stable")].tolist():
        level[v] = max(level[v], level[u] + 1)
    return np.array(level, np.int64)[rank]


def _ranges(starts: Ints, widths: Ints) -> Ints:
    """``starts[k] .. starts[k] + widths[k]`` for every k, one after the other."""
    if not len(widths):
        return np.zeros(0, np.int64)
    ends = np.cumsum(widths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - widths), widths)


def _by_level_and_size(levels: Ints, sizes: Ints) -> list[list[tuple[Ints, Ints]]]:
    """For every level, its nodes by number of strategies, with their flat positions."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    groups: dict[tuple[int, int], list[int]] = {}
    for node, key in enumerate(zip(levels.tolist(), sizes.tolist(), strict=True)):
        groups.setdefault(key, []).append(node)
    found: list[list[tuple[Ints, Ints]]] = [[] for _ in range(int(levels.max(initial=0)) + 1)]
    for (level, size), members in sorted(groups.items()):
        nodes = np.array(members, np.int64)
        found[level].append((nodes, offsets[nodes, None] + np.arange(size)))
    return found
