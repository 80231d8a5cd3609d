"""What the decorator was asked for, to be applied to each function of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoshard.api._calls import Calls
from autoshard.api._parallelized import Parallelized


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of `autoshard.parallelize` that hold for models.

    Args:
        strategy: The strategy.
        example: Arguments of a call by which a model's arrays are placed when they are made.
        others: Options that `Parallelized` takes as they are.
    """

    strategy: str
    example: tuple[Any, ...] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def function(self, function: Callable[..., Any], calls: Calls) -> Parallelized:
        """Parallelize one function of a model.

        A forward pass takes what the caller goes on using, so nothing is donated.

        Args:
            function: The function.
            calls: Reads its arguments.
        """
        return Parallelized(
            function, strategy=self.strategy, donate=False, calls=calls, **self.others
        )
