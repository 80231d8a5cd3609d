"""Models, for those who do not want a decorator."""

from __future__ import annotations

from typing import Any, Unpack, cast

from autoshard.api._parallelize import parallelize
from autoshard.api._types import Keywords, ModelOrClass
from autoshard.api.adapters._registry import KINDS, find_adapter
from autoshard.errors import ModelKindError


def wrap(model: ModelOrClass, **options: Unpack[Keywords]) -> ModelOrClass:
    """Make a model run on a mesh: what the decorator does to its class, for one object.

    Args:
        model: A Linen or NNX module, a Hugging Face `FlaxPreTrainedModel`, or the class of one.
        **options: As `autoshard.parallelize` takes them.

    Returns:
        The same model as an instance of a subclass of the same name; arrays are shared with it.

    Raises:
        ModelKindError: It is no model.
        AutoshardError: As `autoshard.parallelize`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, autoshard
        >>> model = autoshard.wrap(nn.Dense(8), strategy="dp")
        >>> variables = model.init(jax.random.key(0), jnp.ones((16, 4)))
        >>> model.apply(variables, jnp.ones((16, 4))).shape
        (16, 8)
    """
    if find_adapter(model) is None:
        raise ModelKindError(model, [f"{kind.module}.{kind.base}" for kind in KINDS])
    return cast(Any, parallelize)(model, **options)
