"""The parts of a labelling problem that go beyond nodes and edges: shared and overlapped costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autoshard.search._model import Floats, Ints
from autoshard.search.errors import ProblemError

__all__ = ["OverlapTerm", "PayOnceGroup"]


@dataclass(frozen=True, slots=True, init=False, eq=False)
class PayOnceGroup:
    """A value that several consumers want resharded, where equal reshards are paid once.

    Consumer ``j`` with strategy ``s`` wants layout class ``wants[j][s]`` (-1: the value as it is).
    With the source at strategy ``p``, the group costs the sum of ``costs[p, c]`` over the
    *distinct* classes wanted, however many consumers want each.

    Attributes:
        source: The node that makes the value.
        consumers: The nodes that read it, each once.
        wants: Layout class per strategy, one vector for each consumer.
        costs: Cost of resharding from source strategy to class, ``[strategies, classes]``, >= 0.
    """

    source: int
    consumers: tuple[int, ...]
    wants: tuple[Ints, ...]
    costs: Floats

    def __init__(
        self, *, source: int, consumers: Sequence[int], wants: Sequence[ArrayLike], costs: ArrayLike
    ) -> None:
        put = object.__setattr__
        put(self, "source", int(source))
        put(self, "consumers", tuple(int(c) for c in consumers))
        put(self, "wants", tuple(np.asarray(w, np.int64) for w in wants))
        put(self, "costs", np.asarray(costs, np.float64))
        self._check()

    def _check(self) -> None:
        """Checks what can be checked without the rest of the problem."""
        costs = self.costs
        if costs.ndim != 2 or not costs.size:
            raise ProblemError(
                "pay_once.costs", f"shape {costs.shape} is not [strategies, classes]"
            )
        if np.isnan(costs).any() or (costs < 0).any():
            # Paying once is min over subsets of payments, which needs payments that never pay back.
            raise ProblemError(
                "pay_once.costs", "NaN or negative: a reshard paid once must cost >= 0"
            )
        if not self.consumers or len(self.consumers) != len(self.wants):
            raise ProblemError(
                "pay_once.wants",
                f"{len(self.wants)} vectors for {len(self.consumers)} consumers",
                mend="give one vector of layout classes per consumer",
            )
        if len(set(self.consumers)) < len(self.consumers) or self.source in self.consumers:
            raise ProblemError("pay_once.consumers", f"{self.consumers} repeat or hold the source")
        for j, wanted in enumerate(self.wants):
            if wanted.ndim != 1 or (wanted < -1).any() or (wanted >= costs.shape[1]).any():
                raise ProblemError(
                    "pay_once.wants", f"classes outside -1..{costs.shape[1] - 1}: {wanted}", index=j
                )

    def cost(self, labels: Ints) -> float:
        """What the group costs under `labels`."""
        wanted = {int(w[labels[c]]) for w, c in zip(self.wants, self.consumers, strict=True)}
        row = self.costs[labels[self.source]]
        return float(sum(row[c] for c in sorted(wanted - {-1})))


@dataclass(frozen=True, slots=True, init=False, eq=False)
class OverlapTerm:
    """Communication that hides behind compute: only the exposed part is charged.

    The cost is ``weight * max(0, offset + sum of node terms + sum of edge terms)``: communication
    enters with a positive sign, the compute that hides it with a negative one. It is linear in the
    relaxation (one continuous variable that is at least zero and at least the sum).

    Attributes:
        node_terms: Node to one number per strategy.
        edge_terms: Edge index to a matrix of that edge's shape.
        offset: Constant inside the maximum.
        weight: Cost of one exposed unit, > 0.
    """

    node_terms: Mapping[int, Floats]
    edge_terms: Mapping[int, Floats]
    offset: float
    weight: float

    def __init__(
        self,
        *,
        node_terms: Mapping[int, ArrayLike] | None = None,
        edge_terms: Mapping[int, ArrayLike] | None = None,
        offset: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        nodes = {int(n): np.asarray(v, np.float64) for n, v in (node_terms or {}).items()}
        edges = {int(e): np.asarray(m, np.float64) for e, m in (edge_terms or {}).items()}
        put = object.__setattr__
        put(self, "node_terms", nodes)
        put(self, "edge_terms", edges)
        put(self, "offset", float(offset))
        put(self, "weight", float(weight))
        if not (np.isfinite(self.weight) and self.weight > 0 and np.isfinite(self.offset)):
            raise ProblemError(
                "overlaps", f"weight {self.weight} must be > 0 and offset {self.offset} finite"
            )
        if not all(np.isfinite(x).all() for x in (*nodes.values(), *edges.values())):
            raise ProblemError(
                "overlaps", "terms must be finite", mend="forbid strategies by node or edge costs"
            )
