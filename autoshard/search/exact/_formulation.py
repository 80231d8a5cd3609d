"""The tight linear formulation: edge marginals equal node variables, binaries on nodes only.

    minimise   sum_i <cost_i, s_i> + sum_e <matrix_e, z_e> + sum_h weight_h t_h
    subject to sum_p s_i[p] = 1                               every node
               sum_q z_e[p, q] = s_u[p],  sum_p z_e[p, q] = s_v[q]      every edge
               sum over entries live in row r of <vector, s_node> <= capacity_r
               t_h >= offset_h + <terms_h, (s, z)>,  t_h >= 0           every hinge term
               s binary, z >= 0

This is the local polytope (Schlesinger 1976; Wainwright and Jordan 2008, section 4). With integral
``s`` the marginals force ``z`` to be integral, so only the nodes need binaries. The linking
``z >= s_u + s_v - 1`` that is often used instead relaxes to a bound of almost zero.
"""

# scipy ships no types, and what pyright infers from its defaults is too narrow.
# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportReturnType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from autoshard.search._model import Floats, Ints, Model

__all__ = ["Formulation", "estimated_bytes"]

# Peak resident bytes of HiGHS per constraint nonzero of the MILP, measured with margin: model,
# presolved copy, factorisation and branch-and-bound stack.
_BYTES_PER_NONZERO = 1000


def estimated_bytes(model: Model) -> int:
    """Memory that the exact method needs for a model, roughly."""
    return _BYTES_PER_NONZERO * (2 * model.entries + int(model.sizes.sum())) + 2**26


@dataclass(slots=True)
class Formulation:
    """Columns, objective and fixed constraints of a model; memory rows are added as they bind.

    Attributes:
        model: The model.
        offsets: First column of every node, ``[nodes + 1]``; node columns come first.
        objective: Cost per column, divided by `scale`.
        equalities: Left-hand side of the equality constraints.
        targets: Right-hand side of them.
        hinge_rows: Left-hand side of ``... <= hinge_bounds``.
        hinge_bounds: Right-hand side of the hinge rows.
        scale: What the objective was divided by, to suit the solver's absolute tolerances.
    """

    model: Model
    offsets: Ints
    objective: Floats
    equalities: csr_array
    targets: Floats
    hinge_rows: csr_array
    hinge_bounds: Floats
    forbidden: Ints
    scale: float

    @staticmethod
    def build(model: Model) -> Formulation:
        """Builds the columns and the constraints that do not depend on memory."""
        sizes = model.sizes
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        pairs = {tuple(p): e for e, p in enumerate(model.edge_nodes.tolist())}
        matrices = list(model.edge_costs)
        for hinge in model.hinges:
            for u, v in hinge.edge_terms:
                if (u, v) not in pairs:
                    pairs[u, v] = len(matrices)
                    matrices.append(np.zeros((sizes[u], sizes[v])))
        ends = np.array(list(pairs), np.int64).reshape(-1, 2)
        areas = np.array([m.size for m in matrices], np.int64)
        edge_offsets = offsets[-1] + np.concatenate([[0], np.cumsum(areas)])
        hinge_offset = int(edge_offsets[-1])
        width = hinge_offset + len(model.hinges)
        flat = [*model.costs, *(m.ravel() for m in matrices)]
        objective = np.concatenate([*flat, [h.weight for h in model.hinges]])
        forbidden = np.flatnonzero(np.isinf(objective))
        objective[forbidden] = 0.0
        scale = max(1.0, float(np.abs(objective).max(initial=0.0))) / 1e5
        equalities, targets = _equalities(sizes, offsets, ends, edge_offsets, width)
        rows, bounds = _hinges(model, offsets, pairs, edge_offsets, hinge_offset, width)
        return Formulation(
            model,
            offsets,
            objective / scale,
            equalities,
            targets,
            rows,
            bounds,
            forbidden,
            scale,
        )

    def memory_rows(self, rows: Ints) -> tuple[csr_array, Floats]:
        """Constraints of some memory rows, each scaled to a capacity of about one.

        Args:
            rows: Row indices, ascending.

        Returns:
            Left-hand side ``[rows, columns]`` and right-hand side.
        """
        usage = self.model.usage
        first = np.searchsorted(rows, usage.lo)
        last = np.searchsorted(rows, usage.hi)
        live = np.flatnonzero(first < last)
        at, column, value = [], [], []
        for e in live.tolist():
            start = self.offsets[usage.node[e]]
            used = np.flatnonzero(usage.vectors[e])
            span = np.arange(first[e], last[e])
            at.append(np.repeat(span, len(used)))
            column.append(np.tile(start + used, len(span)))
            value.append(np.tile(usage.vectors[e][used], len(span)))
        unit = self.row_units(rows)
        if at:
            where = np.concatenate(at)
            values = np.concatenate(value) / unit[where]
            entries = (values, (where, np.concatenate(column)))
        else:
            entries = (np.zeros(0), (np.zeros(0, np.int64), np.zeros(0, np.int64)))
        shape = (len(rows), self.equalities.shape[1])
        return coo_array(entries, shape=shape).tocsr(), usage.capacity[rows] / unit

    def row_units(self, rows: Ints) -> Floats:
        """What each memory row is divided by, to suit the solver's absolute tolerances."""
        usage = self.model.usage
        most = np.array([v.max() for v in usage.vectors])
        full = usage.spread(most)[rows] if len(most) else np.zeros(len(rows))
        return np.maximum(np.abs(usage.capacity[rows]), 1e-9 + full / 1e3)

    def upper_bounds(self) -> Floats:
        """Upper bound of every column: one, zero where forbidden, none for hinge terms."""
        upper = np.ones(self.equalities.shape[1])
        upper[self.forbidden] = 0.0
        if self.model.hinges:
            upper[-len(self.model.hinges) :] = np.inf
        return upper

    def node_usage(self, columns: Floats) -> Floats:
        """Memory in use in every row under fractional node variables."""
        usage = self.model.usage
        amount = np.array(
            [
                v @ columns[self.offsets[n] : self.offsets[n + 1]]
                for v, n in zip(usage.vectors, usage.node.tolist(), strict=True)
            ]
        )
        return usage.spread(amount) if len(amount) else np.zeros(usage.rows)

    def labels(self, columns: Floats) -> Ints:
        """The largest strategy of every node."""
        return np.array(
            [
                int(np.argmax(columns[a:b]))
                for a, b in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
            ],
            np.int64,
        )

    def inequalities(self, rows: Ints, cuts: list[Ints]) -> tuple[csr_array, Floats]:
        """Hinge rows, memory rows and cover cuts together.

        A cut lists columns of which not all may be one.
        """
        memory, capacity = self.memory_rows(rows)
        width = self.equalities.shape[1]
        at = np.repeat(np.arange(len(cuts)), [len(c) for c in cuts])
        columns = np.concatenate([*cuts, np.zeros(0, np.int64)]).astype(np.int64)
        covers = coo_array((np.ones(len(columns)), (at, columns)), shape=(len(cuts), width))
        left = vstack([self.hinge_rows, memory, covers.tocsr()], format="csr")
        bound = np.concatenate(
            [self.hinge_bounds, capacity, np.array([len(c) - 1.0 for c in cuts])]
        )
        return left, bound


def _equalities(
    sizes: Ints, offsets: Ints, ends: Ints, edge_offsets: Ints, width: int
) -> tuple[csr_array, Floats]:
    """One row per node, then one per strategy of either end of every edge."""
    nodes = len(sizes)
    at = [np.repeat(np.arange(nodes), sizes)]
    column = [np.arange(offsets[-1])]
    value = [np.ones(offsets[-1])]
    row = nodes
    for (u, v), start in zip(ends.tolist(), edge_offsets.tolist()[:-1], strict=True):
        a, b = int(sizes[u]), int(sizes[v])
        grid = np.arange(start, start + a * b)
        # The last column sum follows from the others, so it is left out.
        keep = np.tile(np.arange(b), a) < b - 1
        at += [row + np.repeat(np.arange(a), b), row + a + np.tile(np.arange(b), a)[keep]]
        column += [grid, grid[keep]]
        value += [np.ones(a * b), np.ones(int(keep.sum()))]
        at += [row + np.arange(a), row + a + np.arange(b - 1)]
        column += [offsets[u] + np.arange(a), offsets[v] + np.arange(b - 1)]
        value += [-np.ones(a), -np.ones(b - 1)]
        row += a + b - 1
    entries = (np.concatenate(value), (np.concatenate(at), np.concatenate(column)))
    targets = np.zeros(row)
    targets[:nodes] = 1.0
    return coo_array(entries, shape=(row, width)).tocsr(), targets


def _hinges(
    model: Model,
    offsets: Ints,
    pairs: dict[tuple[int, int], int],
    edge_offsets: Ints,
    hinge_offset: int,
    width: int,
) -> tuple[csr_array, Floats]:
    """``terms - t <= -offset`` for every hinge term."""
    at, column, value = [], [], []
    for h, hinge in enumerate(model.hinges):
        blocks = [(int(offsets[n]), v) for n, v in hinge.node_terms.items()]
        blocks += [(int(edge_offsets[pairs[p]]), m.ravel()) for p, m in hinge.edge_terms.items()]
        blocks.append((hinge_offset + h, np.array([-1.0])))
        for start, vector in blocks:
            at.append(np.full(len(vector), h))
            column.append(start + np.arange(len(vector)))
            value.append(vector)
    bounds = np.array([-h.offset for h in model.hinges])
    if not model.hinges:
        return csr_array((0, width)), bounds
    entries = (np.concatenate(value), (np.concatenate(at), np.concatenate(column)))
    return coo_array(entries, shape=(len(model.hinges), width)).tocsr(), bounds
