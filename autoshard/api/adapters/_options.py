"""What the decorator was asked for, to be applied to each function of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoshard.api._calls import Calls
from autoshard.api._parallelized import Parallelized
from autoshard.api._plan_call import PlanOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `autoshard.parallelize` that hold for models.

    Args:
        mesh: The mesh, as `autoshard.parallelize` takes it.
        plan: What is asked of the plans.
        like: The function whose plan to share.
        example: Arguments of a call by which a model's arrays are placed when they are made.
    """

    mesh: Any
    plan: PlanOptions
    like: Parallelized | None = None
    example: tuple[Any, ...] | None = None

    def function(self, function: Callable[..., Any], calls: Calls) -> Parallelized:
        """Parallelize one function of a model.

        A forward pass takes what the caller goes on using, so nothing is donated.

        Args:
            function: The function.
            calls: Reads its arguments.
        """
        return Parallelized(
            function,
            mesh=self.mesh,
            options=self.plan,
            donate=False,
            calls=calls,
            like=self.like,
        )
