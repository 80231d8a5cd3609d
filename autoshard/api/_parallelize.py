"""The decorator."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, overload

from autoshard.api._calls import Calls
from autoshard.api._parallelized import Parallelized
from autoshard.api._plan_call import PlanOptions
from autoshard.api._types import Decorator, Keywords, Model
from autoshard.api.adapters._options import Options
from autoshard.api.adapters._registry import find_adapter
from autoshard.errors import ModelOptionError, OptionError, PinFormError, PlanOptionError
from autoshard.plan import Plan, load_plan
from autoshard.recipes import REDUCE_DTYPES

DEFAULT_STRATEGY = "zero3"


# A class is a callable as well, and so are most models: what is more special comes first.
@overload
def parallelize(  # pyright: ignore[reportOverlappingOverload]
    function: type[Model], /, **options: Unpack[Keywords]
) -> type[Model]: ...
@overload
def parallelize(function: Model, /, **options: Unpack[Keywords]) -> Model: ...
@overload
def parallelize(function: Callable[..., Any], /, **options: Unpack[Keywords]) -> Parallelized: ...
@overload
def parallelize(**options: Unpack[Keywords]) -> Decorator: ...
def parallelize(
    function: Any = None,
    /,
    *,
    mesh: Any = None,
    strategy: str | None = None,
    donate: bool | str = "auto",
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    like: Parallelized | None = None,
    plan: Plan | str | os.PathLike[str] | None = None,
    pins: Mapping[str, Any] | None = None,
    reduce_dtype: str | None = None,
    strict: bool = False,
    example: tuple[Any, ...] | None = None,
) -> Any:
    """Make a single-device function run on a mesh.

    Args:
        function: A function of trees of arrays, such as a training step
            ``(state, batch) -> (state, metrics)``. NNX objects among its arguments are updated in
            place. Or a model, or the class of one. Left out, a decorator is returned.
        mesh: ``"data=2,model=4"`` (one size may be ``-1``), a mapping, or a `jax.sharding.Mesh`
            (Explicit axes are rebuilt as Auto); all visible devices as ``data`` by default.
        strategy: Terms joined by ``+``, each optionally with its axes: ``"zero3+tensor"``,
            ``"dp@data"``. By default ``"zero3"``, or what ``like`` has.
        donate: ``"auto"`` or True: the memory of state that this function made itself is
            reused, and other arrays are copied first. False: never.
        static_argnums: Positions of parameters that are no arrays.
        static_argnames: Their names.
        like: Another parallelized function: arguments that both share keep its specs, so that
            they never move between the two. Mesh and strategy are its own by default.
        plan: A plan to follow instead of planning, or the file that `Plan.save` wrote. It holds
            for calls of the program that it was made for, whatever its parameters are called;
            others are refused. Mesh and strategy are the plan's.
        pins: `jax.sharding.PartitionSpec` of arguments and results, by path, end of a path or
            regular expression. They hold whatever the strategy says; optimizer state follows
            its parameter.
        reduce_dtype: The type in which the devices' parts of a gradient are added up, such as
            ``"bfloat16"`` to send half as much. By default the widest type of the parameters:
            float32 where these are float32, whatever the model computes in.
        strict: Whether a primitive without a sharding rule is an error. Otherwise it runs
            replicated, and the plan counts it.
        example: For a model class: arguments of a call, by which the arrays of an instance are
            placed when it is made. Without it they are placed by their sizes.

    Returns:
        A `Parallelized`, to be called as the function was. Of a Linen module, an NNX module or a
        Hugging Face `FlaxPreTrainedModel`: an instance of a subclass of the same name; of a class
        of these, that subclass. Their ``parallelized`` is the `Parallelized` behind them.

    Raises:
        OptionError: An option has a value that it does not know.
        PlanOptionError: An option contradicts the plan.
        UnknownPrimitiveError: When it is called: a primitive has no rule, and `strict` is set.
        PlanFileError: The file is no plan, or damaged.
        ModelOptionError: An option says nothing about a model.
        PinFormError: The pins are no mapping of texts.

    Example:
        >>> import jax, jax.numpy as jnp, autoshard
        >>> @autoshard.parallelize(strategy="dp")
        ... def step(w, x):
        ...     return w - 0.1 * jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w), jnp.mean(x)
        >>> w, mean = step(jnp.ones((4, 2)), jnp.ones((16, 4)))
        >>> w.shape
        (4, 2)
    """
    if donate not in (True, False, "auto"):
        raise OptionError("donate", donate, '"auto", True, False')
    # Whatever the annotation says, users pass the plain function.
    if like is not None and not isinstance(like, Parallelized):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError("like", like, "a function made by autoshard.parallelize")

    if isinstance(plan, str | os.PathLike):
        plan = load_plan(plan)
    if plan is not None:
        _check_plan(plan, strategy, like, reduce_dtype)
    _check_pins(pins, plan)
    if reduce_dtype is not None and reduce_dtype not in REDUCE_DTYPES:
        raise OptionError("reduce_dtype", reduce_dtype, ", ".join((*REDUCE_DTYPES, "None")))

    def wrap(function: Any) -> Any:
        adapt = find_adapter(function)
        if adapt is None and not callable(function):
            raise OptionError("function", function, "a callable")
        source = plan if plan is not None else like
        chosen = strategy or (source.strategy if source is not None else DEFAULT_STRATEGY)
        options = PlanOptions(
            strategy=chosen,
            given=plan,
            pins=dict(pins or {}),
            reduce_dtype=reduce_dtype,
            strict=strict,
        )
        if adapt is not None:
            _check_statics(function, static_argnums, static_argnames)
            return adapt(function, Options(mesh=mesh, plan=options, like=like, example=example))
        calls = Calls(function, static_argnums, static_argnames)
        return Parallelized(
            function, mesh=mesh, options=options, donate=donate, calls=calls, like=like
        )

    return wrap if function is None else wrap(function)


def _check_statics(model: Any, numbers: Any, names: Any) -> None:
    """Refuse static arguments of models: they are found by what they are."""
    name = getattr(model, "__name__", type(model).__name__)
    for option, value in (("static_argnums", numbers), ("static_argnames", names)):
        if value not in ((), []):
            raise ModelOptionError(option, value, name)


def _check_pins(pins: Any, plan: Any) -> None:
    """Refuse pins of a wrong form, and pins where a plan has decided already."""
    if pins is not None and not isinstance(pins, Mapping):
        raise PinFormError("pins", pins, "is no mapping of paths to specs")
    for key in pins or {}:
        if not isinstance(key, str):
            raise PinFormError("pins", key, "is no path: a key is a text")
    if pins and plan is not None:
        raise PlanOptionError("pins", pins, "the plan has the specs of all arguments")


def _check_plan(
    plan: Any, strategy: str | None, like: Parallelized | None, reduce_dtype: str | None
) -> None:
    """Refuse options that a plan has decided already."""
    if not isinstance(plan, Plan):
        raise OptionError("plan", plan, "a Plan, or the path of a plan file")
    if like is not None:
        raise PlanOptionError("like", like, "the plan has the specs of the state")
    if strategy not in (None, plan.strategy):
        raise PlanOptionError("strategy", strategy, f"it was made with {plan.strategy!r}")
    if reduce_dtype is not None:
        raise PlanOptionError("reduce_dtype", reduce_dtype, "the plan has the types of its sums")
