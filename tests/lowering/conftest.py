"""Programs under a plan, as jaxprs and as HLO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import pytest
from jax.extend.core import jaxprs_in_params

from autoshard.lowering import device_mesh, lower_plan, shardings
from autoshard.plan import Plan, parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import Program, trace


@dataclass(frozen=True, eq=False)
class Lowered:
    """A function under a plan."""

    program: Program
    plan: Plan
    mesh: jax.sharding.Mesh
    jitted: Any
    leaves: list[Any]

    @property
    def structs(self) -> list[jax.ShapeDtypeStruct]:
        avals = [self.program.argument_value(leaf).aval for leaf in self.program.arguments]
        return [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]

    @property
    def jaxpr(self) -> Any:
        return self.jitted.trace(*self.structs).jaxpr.jaxpr

    def text(self) -> str:
        return self.jitted.lower(*self.structs).compile().as_text()

    def place(self) -> list[Any]:
        leaves = [*self.leaves, *self.program.captured]
        return jax.device_put(leaves, shardings(self.plan.arguments, self.mesh))

    def run(self) -> Any:
        return jax.tree.unflatten(self.program.out_tree, self.jitted(*self.place()))


@pytest.fixture
def lower() -> Callable[..., Lowered]:
    """Trace, plan and lower: `lower(f, args, "zero3", "x=8")`."""

    def lowered(
        function: Any, args: Any, strategy: str, mesh: str = "x=8", devices: int = 8, **options: Any
    ) -> Lowered:
        program = trace(function, args)
        plan = plan_by_recipe(program, parse_mesh(mesh, devices), strategy)
        device = device_mesh(plan.mesh, jax.devices()[:devices])
        jitted = lower_plan(program, plan, device, **options)
        return Lowered(program, plan, device, jitted, jax.tree.leaves(args))

    return lowered


def equations(jaxpr: Any, inside: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every equation, with the primitives around it."""
    for eqn in jaxpr.eqns:
        yield inside, eqn
        for sub in jaxprs_in_params(eqn.params):
            yield from equations(sub, (*inside, str(eqn.primitive)))


@pytest.fixture(name="equations")
def equations_fixture() -> Callable[..., Any]:
    return equations
