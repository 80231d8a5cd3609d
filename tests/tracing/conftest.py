"""Evaluating a program again as it was traced: lowering without a single constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

from autoshard.lowering import Emitter
from autoshard.plan import MeshShape, Plan
from autoshard.tracing import Program


class NoConstraints:
    """A backend that must not be asked."""

    def constrain(self, array: Any, chain: Sequence[Any]) -> Any:
        pytest.fail(f"an empty plan constrained {array} to {chain}")

    def reduce(self, terms: Sequence[Any]) -> Any:
        pytest.fail(f"an empty plan combined {terms}")


@pytest.fixture
def emitted() -> Callable[[Program], Callable[..., Any]]:
    """A program → the function that it was traced from, made of its ops."""

    def make(program: Program) -> Callable[..., Any]:
        mesh = MeshShape(("data",), (1,))
        plan = Plan(name=program.name, mesh=mesh, strategy="none", arguments=(), results=())
        emitter = Emitter(program, plan, NoConstraints())

        def function(*args: Any, **kwargs: Any) -> Any:
            leaves = jax.tree.leaves((args, kwargs))
            results = emitter(*leaves, *program.captured)
            return jax.tree.unflatten(program.out_tree, results)

        return function

    return make
