"""What type checkers are told of the decorator: a model stays what it is, a function does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload

from autoshard.api._parallelized import Parallelized
from autoshard.plan import Plan

if TYPE_CHECKING:  # at run time flax is loaded by adapters alone
    from flax import linen, nnx


class Pretrained(Protocol):
    """What tells a Hugging Face `FlaxPreTrainedModel` from a function: transformers is optional."""

    @property
    def params_shape_tree(self) -> Any:
        """The shapes of its parameters."""
        ...

    @property
    def required_params(self) -> Any:
        """The names of its parameters."""
        ...


Model = TypeVar("Model", bound="linen.Module | nnx.Module | Pretrained")
ModelOrClass = TypeVar(
    "ModelOrClass",
    bound="linen.Module | nnx.Module | Pretrained | type[linen.Module | nnx.Module | Pretrained]",
)


class Keywords(TypedDict, total=False):
    """The keyword arguments of `autoshard.parallelize`."""

    mesh: Any
    strategy: str | None
    donate: bool | str
    static_argnums: int | Sequence[int]
    static_argnames: str | Sequence[str]
    like: Parallelized | None
    plan: Plan | str | os.PathLike[str] | None
    pins: Mapping[str, Any] | None
    reduce_dtype: str | None
    strict: bool
    example: tuple[Any, ...] | None


class Decorator(Protocol):
    """`autoshard.parallelize` with its options given."""

    # A class is a callable as well, and so are most models: what is more special comes first.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: type[Model], /
    ) -> type[Model]: ...
    @overload
    def __call__(self, function: Model, /) -> Model: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> Parallelized: ...
