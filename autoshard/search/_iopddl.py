"""Reads and writes the JSON format of the IOPDDL contest (github.com/google/iopddl).

    {"problem": {"name": str,
                 "nodes": {"intervals": [[lo, hi], ...], "costs": [[...], ...], "usages": [[...]]},
                 "edges": {"nodes": [[u, v], ...], "costs": [[row-major], ...]},
                 "usage_limit": int}}

Costs of 10^18 and more forbid. What the format lacks (ties, multiplicities, pay-once groups,
overlap terms) goes into an ``"extensions"`` object next to these, which other readers ignore.
"""

from __future__ import annotations

import gzip
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.search._model import Floats
from autoshard.search._problem import OverlapTerm, PayOnceGroup, Problem
from autoshard.search.errors import ProblemFormatError

__all__ = ["INFINITE_COST", "read_iopddl", "write_iopddl"]

INFINITE_COST = 1e18


def read_iopddl(path: str | Path) -> Problem:
    """Reads a problem.

    Args:
        path: A ``.json`` or ``.json.gz`` file.

    Returns:
        The problem, named as in the file.

    Raises:
        ProblemFormatError: If the file is not JSON of this format.
        ProblemError: If it is, but the problem breaks an invariant.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, EOFError, ValueError) as wrong:
        raise ProblemFormatError(str(path), f"cannot be read as JSON ({wrong})") from None
    try:
        body = document["problem"]
        nodes, edges = body["nodes"], body["edges"]
        fields: dict[str, Any] = {
            "node_costs": _forbid(_split(nodes["costs"])),
            "usages": _split(nodes["usages"]),
            "intervals": np.array(nodes["intervals"], np.int64).reshape(-1, 2),
            "edges": np.array(edges["nodes"], np.int64).reshape(-1, 2),
            "edge_costs": _forbid(_split(edges["costs"])),
            "usage_limit": body.get("usage_limit"),
            "name": str(body.get("name") or path.name.split(".")[0]),
        }
        extensions = _read_extensions(body.get("extensions", {}))
    except KeyError as missing:
        raise ProblemFormatError(
            str(path),
            f"the key {missing} is missing",
            mend='see {"problem": {"nodes": {"intervals", "costs", "usages"}, "edges": ...}}',
        ) from None
    except (TypeError, ValueError, OverflowError) as wrong:
        raise ProblemFormatError(str(path), f"a field has the wrong type ({wrong})") from None
    return Problem(**fields, **extensions)


def write_iopddl(problem: Problem, path: str | Path) -> None:
    """Writes a problem; ``.gz`` at the end of the name compresses it.

    A missing memory limit is written as null.

    Args:
        problem: The problem.
        path: Where to.
    """
    path = Path(path)
    body: dict[str, Any] = {
        "name": problem.name,
        "nodes": {
            "intervals": problem.intervals.tolist(),
            "costs": [_plain(c) for c in problem.node_costs],
            "usages": [_plain(u) for u in problem.usages],
        },
        "edges": {
            "nodes": problem.edges.tolist(),
            "costs": [_plain(m) for m in problem.edge_costs],
        },
        "usage_limit": None if problem.usage_limit is None else _number(problem.usage_limit),
    }
    extensions = _write_extensions(problem)
    if extensions:
        body["extensions"] = extensions
    text = json.dumps({"problem": body}, separators=(",", ":")).encode()
    # A fixed time stamp keeps the bytes a function of the problem alone.
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def _split(rows: list[list[float]]) -> list[Floats]:
    """Ragged lists to views of one flat array: no Python object is made per entry."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.fromiter(chain.from_iterable(rows), np.float64, int(lengths.sum()))
    ends = np.cumsum(lengths)
    return [flat[a:b] for a, b in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]


def _forbid(rows: list[Floats]) -> list[Floats]:
    if rows and rows[0].base is not None:
        flat = rows[0].base
        flat[flat >= INFINITE_COST] = np.inf
    return rows


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _plain(array: Floats) -> list[int | float]:
    finite = np.where(np.isfinite(array), array, INFINITE_COST).ravel()
    return [_number(x) for x in finite.tolist()]


def _write_extensions(problem: Problem) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if problem.ties:
        found["ties"] = [list(t) for t in problem.ties]
    for key in ("node_multiplicity", "edge_multiplicity"):
        counts = np.asarray(getattr(problem, key))
        if (counts != 1).any():
            found[key] = _plain(counts)
    if problem.pay_once:
        found["pay_once"] = [
            {
                "source": g.source,
                "consumers": list(g.consumers),
                "wants": [w.tolist() for w in g.wants],
                "costs": [_plain(row) for row in g.costs],
            }
            for g in problem.pay_once
        ]
    if problem.overlaps:
        found["overlaps"] = [
            {
                "weight": o.weight,
                "offset": o.offset,
                "nodes": [[n, v.tolist()] for n, v in o.node_terms.items()],
                "edges": [[e, m.tolist()] for e, m in o.edge_terms.items()],
            }
            for o in problem.overlaps
        ]
    return found


def _read_extensions(found: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        key: found[key]
        for key in ("ties", "node_multiplicity", "edge_multiplicity")
        if key in found
    }
    fields["pay_once"] = [
        PayOnceGroup(
            source=g["source"],
            consumers=g["consumers"],
            wants=g["wants"],
            costs=_unplain(g["costs"]),
        )
        for g in found.get("pay_once", ())
    ]
    fields["overlaps"] = [
        OverlapTerm(
            weight=o["weight"],
            offset=o["offset"],
            node_terms={n: np.array(v) for n, v in o["nodes"]},
            edge_terms={e: np.array(m) for e, m in o["edges"]},
        )
        for o in found.get("overlaps", ())
    ]
    return fields


def _unplain(rows: list[list[float]]) -> Floats:
    array = np.array(rows, np.float64)
    array[array >= INFINITE_COST] = np.inf
    return array
