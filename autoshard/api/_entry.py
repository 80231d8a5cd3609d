"""One planned program of a function: what a combination of shapes and static arguments needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.core import Tracer

from autoshard.api._calls import Call
from autoshard.api._ownership import Ownership
from autoshard.errors import AbstractArgumentError, CompiledArgumentsError, DeletedArrayError
from autoshard.lowering import lower_plan, shardings
from autoshard.plan import MeshShape, Plan, Spec
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import Program, abstract, trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A planned program.

    Args:
        program: The program.
        plan: Its plan.
        function: Jitted, from flat arguments to flat results.
        shardings: Of the argument leaves.
        donated: For each argument leaf, whether its memory is taken.
        captured: Closed-over arrays, placed as planned.
        state_results: Positions of the results that may be donated later: state, if any is.
    """

    program: Program
    plan: Plan
    function: Any
    shardings: tuple[Any, ...]
    donated: tuple[bool, ...]
    captured: tuple[Any, ...]
    state_results: tuple[int, ...]

    def run(self, function: Any, leaves: Sequence[Any], owned: Ownership) -> Any:
        """Call a form of the program on flat arguments and remember the state that it makes.

        Args:
            function: ``self.function`` or what was compiled from it.
            leaves: Argument leaves, anywhere.
            owned: The arrays that may be donated.

        Returns:
            The result tree.

        Raises:
            AbstractArgumentError: An argument is no array but a shape.
            DeletedArrayError: An argument's memory was taken by an earlier call.
        """
        try:
            placed = owned.place(leaves, self.shardings, self.donated)
            results = function(*placed, *self.captured)
        except (RuntimeError, TypeError, ValueError) as error:
            for leaf, planned in zip(leaves, self.plan.arguments, strict=False):
                if isinstance(leaf, jax.ShapeDtypeStruct):
                    raise AbstractArgumentError(self.plan.name, planned.path) from error
                if isinstance(leaf, jax.Array) and leaf.is_deleted():
                    raise DeletedArrayError(self.plan.name, planned.path) from error
            raise
        owned.add([results[i] for i in self.state_results])
        return jax.tree.unflatten(self.program.out_tree, results)


def build_entry(
    function: Callable[..., Any],
    call: Call,
    *,
    mesh: jax.sharding.Mesh,
    strategy: str,
    donate: bool,
    nested: bool,
    fixed: Mapping[str, Spec],
    notes: Sequence[str] = (),
) -> Entry:
    """Trace, plan and lower one call.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        mesh: The device mesh.
        strategy: The strategy.
        donate: Whether state is donated.
        nested: Whether the call happens inside another trace, which may differentiate it.
        fixed: Specs that arguments inherit, by path.
        notes: What else the user should know.

    Returns:
        The entry.
    """
    program = trace(function, call.args, call.kwargs, keep_custom=nested)
    shape = MeshShape(tuple(mesh.axis_names), tuple(mesh.devices.shape))
    plan = plan_by_recipe(program, shape, strategy, fixed=_fitting(program, fixed))
    plan = replace(plan, notes=(*plan.notes, *notes))
    placed = shardings(plan.arguments, mesh)
    n = len(call.leaves)
    captured = [
        array if nested or isinstance(array, Tracer) else jax.device_put(array, sharding)
        for array, sharding in zip(program.captured, placed[n:], strict=True)
    ]
    return Entry(
        program=program,
        plan=plan,
        function=lower_plan(program, plan, mesh, donate=donate, nested=nested),
        shardings=tuple(placed[:n]),
        donated=tuple(donate and leaf.carried for leaf in plan.arguments[:n]),
        captured=tuple(captured),
        state_results=tuple(i for i, leaf in enumerate(plan.results) if leaf.carried and donate),
    )


def fixed_specs(plans: Sequence[Plan]) -> dict[str, Spec]:
    """Specs of the state of earlier plans, by path; the first plan wins."""
    found: dict[str, Spec] = {}
    for plan in plans:
        for leaf in plan.state:
            found.setdefault(f"{leaf.path}:{leaf.shape}", leaf.spec)
    return found


def _fitting(program: Program, fixed: Mapping[str, Spec]) -> dict[str, Spec]:
    """The fixed specs that speak of this program's arguments.

    An argument is the same as an earlier one when it has its shape and its path, or when one path
    is the end of the other: ``params/w`` of an evaluation is ``state/params/w`` of the step.
    """
    found: dict[str, Spec] = {}
    for leaf in program.arguments:
        shape = program.argument_value(leaf).shape
        name = f"{leaf.path}:{shape}"
        matches = {
            spec
            for other, spec in fixed.items()
            if other == name or other.endswith("/" + name) or name.endswith("/" + other)
        }
        if name in fixed:
            found[leaf.path] = fixed[name]
        elif len(matches) == 1:
            found[leaf.path] = matches.pop()
    return found


class PlannedLowering:
    """A planned call, lowered but not compiled.

    Args:
        entry: The planned program.
        structs: Its flat abstract arguments.
        owned: Arrays whose memory may be taken.
    """

    def __init__(
        self, entry: Entry, structs: Sequence[jax.ShapeDtypeStruct], owned: Ownership
    ) -> None:
        self._entry = entry
        self._structs = structs
        self._owned = owned
        self.plan = entry.plan
        captured = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in entry.captured]
        self.lowered = entry.function.lower(*structs, *captured)

    def as_text(self, *args: Any, **kwargs: Any) -> str:
        """The lowered module, as `jax.stages.Lowered.as_text` gives it."""
        return self.lowered.as_text(*args, **kwargs)

    def compile(self) -> PlannedExecutable:
        """Compile it."""
        compiled = self.lowered.compile()
        return PlannedExecutable(self._entry, compiled, self._structs, self._owned)


class PlannedExecutable:
    """A planned call, compiled.

    Args:
        entry: The planned program.
        compiled: The `jax.stages.Compiled` of the flat function.
        structs: The flat abstract arguments that it was compiled for.
        owned: Arrays whose memory may be taken.
    """

    def __init__(
        self,
        entry: Entry,
        compiled: Any,
        structs: Sequence[jax.ShapeDtypeStruct],
        owned: Ownership,
    ) -> None:
        self._entry = entry
        self._structs = structs
        self._owned = owned
        self.plan = entry.plan
        self.compiled = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, as calling the parallelized function would.

        Args:
            *args: Arguments of exactly the tree, shapes and dtypes that it was compiled for,
                static ones left out.
            **kwargs: Likewise.

        Returns:
            What the function returns.

        Raises:
            CompiledArgumentsError: The arguments differ from those it was compiled for.
        """
        leaves, tree = jax.tree.flatten((args, kwargs))
        if tree != self._entry.program.in_tree:
            raise CompiledArgumentsError(
                self.plan.name, f"takes {self._entry.program.in_tree}, was given {tree}"
            )
        for leaf, struct, planned in zip(leaves, self._structs, self.plan.arguments, strict=False):
            given = abstract(leaf, planned.path)
            if (given.shape, given.dtype) != (struct.shape, struct.dtype):
                raise CompiledArgumentsError(
                    self.plan.name,
                    f"takes {struct.dtype}{list(struct.shape)} as {planned.path!r}, "
                    f"was given {given.dtype}{list(given.shape)}",
                )
        return self._entry.run(self.compiled, leaves, self._owned)

    def as_text(self) -> str:
        """Optimized HLO."""
        return self.compiled.as_text()

    def memory_analysis(self) -> Any:
        """The compiler's memory statistics."""
        return self.compiled.memory_analysis()

    def cost_analysis(self) -> Any:
        """The compiler's cost estimate."""
        return self.compiled.cost_analysis()
