"""Plans kept between processes: ``AUTOSHARD_CACHE`` names the folder.

A plan is kept under a digest of all that it follows from. Processes may read and write at once:
files appear whole, and two that plan the same program write the same text. What cannot be read
or does not fit is said, planned again and overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from autoshard.errors import AutoshardError, MissingPlanError, PlanCacheWarning
from autoshard.plan._file import load_plan
from autoshard.plan._file_encode import SCHEMA_VERSION, encode_plan, versions
from autoshard.plan._file_write import write_atomically
from autoshard.plan._mesh import MeshShape
from autoshard.plan._plan import Plan
from autoshard.plan._replay import replay
from autoshard.rules import RuledProgram
from autoshard.tracing import Program, op_signature

VARIABLE = "AUTOSHARD_CACHE"
"""Environment variable with the folder; empty or not set: nothing is kept."""


def cached_plan(
    ruled: RuledProgram,
    mesh: MeshShape,
    make: Callable[[], Plan],
    *,
    hardware: str,
    options: Mapping[str, object],
) -> Plan:
    """The plan that is kept for a program, or a new one, which is kept.

    Args:
        ruled: The program with its rules.
        mesh: The mesh.
        make: Makes the plan.
        hardware: Kind of the devices.
        options: What else the plan follows from, such as the strategy; as plain data.

    Returns:
        The plan.
    """
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        return make()
    path = Path(folder).expanduser() / "plans" / f"{_key(ruled, mesh, hardware, options)}.json"
    kept = _read(path, ruled.program, mesh)
    if kept is not None:
        return kept
    plan = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encode_plan(plan))
    except OSError as error:
        _warn(f"the plan is not kept: {path}: {error.strerror or error}")
    return plan


def _read(path: Path, program: Program, mesh: MeshShape) -> Plan | None:
    try:
        return replay(load_plan(path), program, mesh)
    except MissingPlanError:
        return None
    except AutoshardError as error:
        problem = str(error).split("\nMend it")[0]
        _warn(f"a kept plan is not used and will be replaced: {problem}")
        return None


def _warn(text: str) -> None:
    warnings.warn(f"{VARIABLE}: {text}", PlanCacheWarning, stacklevel=2)


def _key(ruled: RuledProgram, mesh: MeshShape, hardware: str, options: Mapping[str, object]) -> str:
    """A digest of the program, its rules, the mesh, the hardware, the options and the versions."""
    program = ruled.program
    rules: dict[str, str] = {}
    for op, rule in zip(program.ops, ruled.rules, strict=True):
        look = op_signature(program, op)
        if rule is not None and look not in rules:
            rules[look] = rule.text
    facts = {
        "schema_version": SCHEMA_VERSION,
        "versions": versions(),
        "program": program.structure.digest,
        "paths": [leaf.path for leaf in (*program.arguments, *program.results)],
        "name": program.name,
        "rules": sorted(rules.items()),
        "mesh": mesh.text,
        "hardware": hardware,
        "options": options,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
