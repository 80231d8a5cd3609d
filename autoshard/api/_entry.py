"""One planned program of a function: what a combination of shapes and static arguments needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax.core import Tracer

from autoshard.api._calls import Call
from autoshard.api._ownership import Ownership, references
from autoshard.api._plan_call import PlanOptions, plan_call
from autoshard.errors import AbstractArgumentError, DeletedArrayError
from autoshard.lowering import lower_plan, shardings
from autoshard.plan import Plan
from autoshard.tracing import Program

if TYPE_CHECKING:
    from autoshard.api._recent import Recent


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A planned program.

    Args:
        program: The program.
        plan: Its plan.
        function: Jitted, from flat arguments to the results in ``kept``.
        shardings: Of the argument leaves.
        donated: For each argument leaf, whether its memory is taken.
        captured: Closed-over arrays, placed as planned.
        state_arguments: Positions of the arguments that come back.
        kept_arguments: Positions of the state that stays as it was.
        state_results: Positions, among the kept results, of state that the function makes.
        donates: Whether what it makes may be donated later.
        forwarded: Result position → argument position, of results that are an argument as it was.
            The compiled function does not return them.
        outcome: What the traced function says about its results, if anything.
    """

    program: Program
    plan: Plan
    function: Any
    shardings: tuple[Any, ...]
    donated: tuple[bool, ...]
    captured: tuple[Any, ...]
    state_arguments: tuple[int, ...]
    kept_arguments: tuple[int, ...]
    state_results: tuple[int, ...]
    donates: bool
    forwarded: Mapping[int, int]
    outcome: Any = None

    def run(self, function: Any, call: Call, owned: Ownership, recent: Recent | None = None) -> Any:
        """Call a form of the program and remember the state that it makes.

        Args:
            function: ``self.function`` or what was compiled from it.
            call: The call.
            owned: The arrays that may be donated.
            recent: The call before, which this one is like.

        Returns:
            The result tree.

        Raises:
            AbstractArgumentError: An argument is no array but a shape.
            DeletedArrayError: An argument's memory was taken by an earlier call.
        """
        leaves = call.leaves
        try:
            if recent is not None and call.known:
                placed = owned.place_some(leaves, self.shardings, recent.others)
            else:
                placed = owned.place(leaves, self.shardings, self.donated)
            results = function(*placed, *self.captured)
        except (RuntimeError, TypeError, ValueError) as error:
            for leaf, planned in zip(leaves, self.plan.arguments, strict=False):
                if isinstance(leaf, jax.ShapeDtypeStruct):
                    raise AbstractArgumentError(self.plan.name, planned.path) from error
                if isinstance(leaf, jax.Array) and leaf.is_deleted():
                    raise DeletedArrayError(self.plan.name, planned.path) from error
            raise
        made = [results[i] for i in self.state_results]
        generation = owned.add(made) if self.donates else references(made)
        if recent is not None:
            recent.made(call, placed, generation, owned)
        return call.finish(self, placed, self.complete(results, placed))

    def complete(self, results: Sequence[Any], arguments: Sequence[Any]) -> Sequence[Any]:
        """All results: those that the compiled function returns, and arguments as they were."""
        if not self.forwarded:
            return results
        kept = iter(results)
        n = len(self.program.results)
        ahead = self.forwarded
        return [arguments[ahead[i]] if i in ahead else next(kept) for i in range(n)]


def build_entry(
    function: Callable[..., Any],
    call: Call,
    *,
    mesh: jax.sharding.Mesh,
    options: PlanOptions,
    donate: bool,
    nested: bool,
    earlier: Sequence[Plan],
    notes: Sequence[str] = (),
) -> Entry:
    """Trace, plan and lower one call.

    Args:
        function: The function, static arguments filled in.
        call: The call.
        mesh: The device mesh.
        options: What was asked of the plan.
        donate: Whether state is donated.
        nested: Whether the call happens inside another trace, which may differentiate it.
        earlier: Plans whose state this one shares.
        notes: What else the user should know.

    Returns:
        The entry.
    """
    program, plan = plan_call(
        function,
        call,
        mesh,
        options,
        earlier=earlier,
        notes=notes,
        hardware=str(mesh.devices.flat[0].device_kind),
        keep_custom=nested,
    )
    placed = shardings(plan.arguments, mesh)
    n = len(call.leaves)
    captured = [
        array if nested or isinstance(array, Tracer) else jax.device_put(array, sharding)
        for array, sharding in zip(program.captured, placed[n:], strict=True)
    ]
    ahead = forwarded_results(program) if call.forwards else {}
    kept = [i for i in range(len(plan.results)) if i not in ahead]
    same = {*ahead.values()}
    donated = [donate and leaf.carried and i not in same for i, leaf in enumerate(plan.arguments)]
    return Entry(
        program=program,
        plan=plan,
        function=lower_plan(
            program,
            plan,
            mesh,
            donate=[i for i, takes in enumerate(donated) if takes],
            results=kept,
            nested=nested,
        ),
        shardings=tuple(placed[:n]),
        donated=tuple(donated[:n]),
        captured=tuple(captured),
        state_arguments=tuple(
            i for i, leaf in enumerate(plan.arguments[:n]) if leaf.carried and i not in same
        ),
        kept_arguments=tuple(i for i in sorted(same) if plan.arguments[i].carried),
        state_results=tuple(j for j, i in enumerate(kept) if plan.results[i].carried),
        donates=donate,
        forwarded=ahead,
        outcome=getattr(function, "outcome", None),
    )


def forwarded_results(program: Program) -> dict[int, int]:
    """Result position → argument position, where a result is an argument as it came in."""
    arguments = {
        program.ops[leaf.op].results[0]: i
        for i, leaf in enumerate(program.arguments)
        if not leaf.captured
    }
    found = {}
    for position, leaf in enumerate(program.results):
        operand = program.ops[leaf.op].operands[0]
        if isinstance(operand, int) and operand in arguments:
            found[position] = arguments[operand]
    return found
