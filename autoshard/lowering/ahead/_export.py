"""A planned program as bytes that another process can compile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import export
from jax.sharding import AbstractMesh, AxisType

from autoshard.errors import ExportError
from autoshard.lowering._jit import lower_plan
from autoshard.plan import MeshShape, Plan, Spec
from autoshard.tracing import Block, Program

_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


_CALLBACKS = frozenset({"io_callback", "pure_callback"})
_DEBUGGING = frozenset({"debug_callback", "debug_print"})
"""Calls of Python that are not needed for what a program computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A planned program that no longer needs Python.

    Args:
        name: Name of the function.
        data: StableHLO with its shardings, as `jax.export` serializes it.
        mesh: The mesh.
        arguments: Specs of the flat arguments.
        results: Specs of the flat results.
        donated: Positions of the arguments whose memory is taken.
    """

    name: str
    data: bytes
    mesh: MeshShape
    arguments: tuple[Spec, ...]
    results: tuple[Spec, ...]
    donated: tuple[int, ...]


def export_plan(
    program: Program,
    plan: Plan,
    platform: str,
    *,
    donate: bool | Sequence[int] = True,
    results: Sequence[int] | None = None,
) -> Exported:
    """Lower a planned program for a platform, with no device of it at hand.

    Args:
        program: The program.
        plan: Its plan.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        donate: Whether the memory of state is reused, or positions of arguments.
        results: Positions of the results to return; all by default.

    Returns:
        What a compiler in another process needs.

    Raises:
        ExportError: The program calls back into Python. Debug prints are left out.
    """
    mesh = AbstractMesh(
        plan.mesh.sizes, plan.mesh.names, axis_types=(AxisType.Auto,) * len(plan.mesh.names)
    )
    state = tuple(i for i, leaf in enumerate(plan.arguments) if leaf.carried)
    donated = (state if donate else ()) if isinstance(donate, bool) else tuple(donate)
    kept = range(len(plan.results)) if results is None else tuple(results)
    program = without_debugging(program)
    function = lower_plan(program, plan, mesh, donate=donated, results=kept)
    avals = [program.argument_value(leaf).aval for leaf in program.arguments]
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    try:
        made: Any = export.export(function, platforms=[_PLATFORMS[platform]])(*structs)
        data = bytes(made.serialize())
    except (NotImplementedError, ValueError) as error:
        calls = [op for op in program.ops if op.primitive in _CALLBACKS]
        if not calls:
            raise
        where = calls[0].source or "an unknown place"
        problem = f"{calls[0].primitive} at {where} calls back into this one"
        raise ExportError(program.name, problem) from error
    return Exported(
        name=program.name,
        data=data,
        mesh=plan.mesh,
        arguments=tuple(leaf.spec for leaf in plan.arguments),
        results=tuple(plan.results[i].spec for i in kept),
        donated=donated,
    )


def without_debugging(program: Program) -> Program:
    """The program without its debug prints: there is nobody to print in another process.

    Args:
        program: The program.

    Returns:
        It, with the same ids of ops.
    """
    silent = {op.id for op in program.ops if op.primitive in _DEBUGGING and not op.results}
    if not silent:
        return program

    def block(body: Block) -> Block:
        return replace(body, ops=tuple(op for op in body.ops if op not in silent))

    ops = tuple(replace(op, blocks=tuple(map(block, op.blocks))) for op in program.ops)
    return replace(program, ops=ops, body=block(program.body))
