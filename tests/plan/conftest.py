"""Programs with their rules, traced from plain functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from autoshard.rules import RuledProgram, with_rules
from autoshard.tracing import trace


@pytest.fixture
def ruled() -> Callable[..., RuledProgram]:
    """Trace a function on arguments that may be shapes: `ruled(f, (4, 8), {"w": (8, 8)})`."""

    def leaf(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x

    def traced(function: Callable[..., Any], *args: Any) -> RuledProgram:
        is_leaf = lambda x: isinstance(x, tuple) and all(isinstance(i, int) for i in x)
        return with_rules(trace(function, jax.tree.map(leaf, args[:], is_leaf=is_leaf)))

    return traced
