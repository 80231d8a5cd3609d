"""The `Plan`: what a labelling means for every argument, result and reshard of a program."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from typing import Literal as OneOf

from autoshard.errors import NotPlannedError, PathError, PlanWriteError
from autoshard.plan._mesh import MeshShape
from autoshard.plan._spec import Spec
from autoshard.tracing import Program, Structure

Side = OneOf["operand", "result"]
ConstraintKey = tuple[int, Side, int]
"""``(op id, "operand" | "result", index)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafPlan:
    """The plan of one argument or result.

    Args:
        path: Its path.
        shape: Global shape.
        dtype: Name of the element type.
        nbytes: Bytes of the whole array.
        spec: Its spec.
        reason: Why.
        carried: True for state: a result that comes back as an argument, or such an argument.
        mesh: The mesh.
        captured: True for an array that the function closes over.
        follows: Paths of the leaves that it follows, as its reason names them.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    spec: Spec
    reason: str
    carried: bool
    mesh: MeshShape
    captured: bool = False
    follows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.spec.check(self.shape, self.mesh, self.path)

    @property
    def bytes_per_device(self) -> int:
        """Bytes that each device holds."""
        return self.nbytes // self.spec.shards(self.mesh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """An op that lowering writes out on shards, and how its partial result is combined.

    A convolution that sums over nothing cut is written out with nothing to combine: both `axes`
    and `reduced` are empty.

    Args:
        axes: Axes over which it is partial and that it is scattered over, major to minor.
        reduced: Other axes over which it is partial.
        dim: The dimension of the result that `axes` shard afterwards.
        operands: For each operand its spec.
        result: The spec of the result once it is combined.
        into: The addition that combines it together with others, or None: by itself.
        dtype: The type in which partial results are made and combined, or None: the op's own.
    """

    axes: tuple[str, ...]
    reduced: tuple[str, ...]
    dim: int
    operands: tuple[Spec, ...]
    result: Spec
    into: int | None = None
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a program is sharded.

    Args:
        name: Name of the planned function.
        mesh: The mesh.
        strategy: What was asked for.
        arguments: Plans of the argument leaves, captured arrays last.
        results: Plans of the result leaves.
        constraints: Where lowering annotates: key → the specs to pass through, the wanted one
            last.
        regathers: Operand constraints that must not share the work of an earlier one: the array
            is gathered anew, so that the first copy does not stay alive in between.
        reductions: Op id → how its partial result is combined, for ops that the lowering writes
            out: because a partitioner may all-reduce, and cut or add afterwards, or because it
            gets convolutions wrong.
        notes: Things that the user should know, such as what stays replicated and why.
        origin: The program that is planned, or for a plan from a file its structure.
        versions: For a plan from a file, what wrote it: package → version.
    """

    name: str
    mesh: MeshShape
    strategy: str
    arguments: tuple[LeafPlan, ...]
    results: tuple[LeafPlan, ...]
    constraints: Mapping[ConstraintKey, tuple[Spec, ...]] = field(default_factory=dict)
    regathers: frozenset[ConstraintKey] = frozenset()
    reductions: Mapping[int, Reduction] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: Program | Structure | None = field(default=None, compare=False, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def structure(self) -> Structure:
        """What identifies the program that the plan belongs to.

        Raises:
            PlanWriteError: The plan was put together by hand, without a program.
        """
        if self.origin is None:
            hint = "plan = step.plan(...), then plan.save(path)"
            raise PlanWriteError(self.name, "the plan was made without a program", hint)
        return self.origin if isinstance(self.origin, Structure) else self.origin.structure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, for `autoshard.load_plan` in any process.

        Args:
            path: The file. An earlier plan there is replaced; anything else is left alone.

        Raises:
            PlanWriteError: It cannot be written, or something else is there.
        """
        from autoshard.plan._file import save_plan

        save_plan(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote; `autoshard.load_plan` does the same.

        Args:
            path: The file.

        Raises:
            MissingPlanError: There is no such file.
            PlanFileError: It is no plan, damaged, or contradicts itself.
            PlanSchemaError: A newer autoshard wrote it.
        """
        from autoshard.plan._file import load_plan

        return load_plan(path)

    def compile(self, topology: str | None = None, **options: Any) -> Any:
        """Compile the planned program ahead of time, in a process of its own.

        Args:
            topology: Devices that need not be there, such as ``v5e:2x4``; by default the CPU plays
                those of the mesh.
            **options: As for `autoshard.lowering.ahead.compile_ahead`: ``limits``, ``text``.

        Returns:
            A `Compilation`, which tells the memory that a device needs.

        Raises:
            NotPlannedError: The plan is from a file and has not met its program.
            AutoshardError: There is no such topology or compiler, or the compiler failed.
        """
        if not isinstance(self.origin, Program):
            raise NotPlannedError(self.name, "compile")
        # Not an import: a plan does not depend on how it is lowered.
        ahead = importlib.import_module("autoshard.lowering.ahead")
        return ahead.compile_ahead(
            self.origin, self, topology or f"cpu:{self.mesh.size}", **options
        )

    @property
    def mesh_shape(self) -> dict[str, int]:
        """Axis sizes by name."""
        return dict(self.mesh.axes)

    @property
    def state(self) -> tuple[LeafPlan, ...]:
        """The argument leaves that the function returns updated."""
        return tuple(leaf for leaf in self.arguments if leaf.carried)

    @property
    def bytes_per_device(self) -> int:
        """Bytes of all arguments on each device."""
        return sum(leaf.bytes_per_device for leaf in self.arguments)

    def leaf(self, path: str) -> LeafPlan:
        """The plan of one argument or result.

        Args:
            path: Its full path, or an end of it that only one leaf has (arguments first).

        Returns:
            The leaf.

        Raises:
            PathError: No leaf or several leaves match.
        """
        for leaves in (self.arguments, self.results):
            exact = [leaf for leaf in leaves if leaf.path == path]
            ends = exact or [leaf for leaf in leaves if leaf.path.endswith("/" + path)]
            if len(ends) == 1:
                return ends[0]
            if len(ends) > 1:
                raise PathError(path, [leaf.path for leaf in ends], several=True)
        raise PathError(path, list(self._paths()), several=False)

    def data_leaf(self, path: str | None) -> LeafPlan:
        """The plan of an argument that is not state.

        Args:
            path: An end of its path; None where the function has only one such argument.

        Returns:
            The leaf.

        Raises:
            PathError: No or several arguments match.
        """
        leaves = [leaf for leaf in self.arguments if not leaf.carried and not leaf.captured]
        found = [
            leaf
            for leaf in leaves
            if path is None or leaf.path == path or leaf.path.endswith("/" + path)
        ]
        if len(found) != 1:
            candidates = [leaf.path for leaf in found or leaves]
            name = candidates[0].split("/")[-1] if candidates else "x"
            hint = f"autoshard.shard_batch({{{name!r}: …}}, step)"
            raise PathError(path or "", candidates, several=bool(found), hint=hint)
        return found[0]

    def _paths(self) -> Iterator[str]:
        for leaf in (*self.arguments, *self.results):
            yield leaf.path

    def explain(self, path: str | None = None) -> str:
        """Say what was decided and why.

        Args:
            path: One argument or result; None for the whole plan.

        Returns:
            A table of all arguments with totals, or a paragraph on one leaf.

        Raises:
            PathError: The path matches no leaf, or several.
        """
        from autoshard.plan._explain import explain_leaf, explain_plan

        return explain_plan(self) if path is None else explain_leaf(self, self.leaf(path))

    def __str__(self) -> str:
        shards = math.prod(self.mesh.sizes)
        return f"Plan({self.name}: {self.strategy} on {self.mesh}, {shards} devices)"
