"""What every transformer here shares: checks of its configuration, remat, the stack of layers."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from autoshard.models.errors import ModelConfigError

Remat = Literal["none", "full", "dots"]
"""What the backward pass recomputes: nothing, each whole block, or all but its matmuls."""

REMAT_POLICIES: Mapping[str, Callable[..., Any] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What each choice but "none" lets the forward pass keep."""


def normalise_dtypes(config: Any) -> None:
    """Turns `dtype` and `param_dtype` of a frozen config into `numpy.dtype`s, names included."""
    for field in ("dtype", "param_dtype"):
        value: DTypeLike = getattr(config, field)
        try:
            dtype = jax.numpy.dtype(value)
        except TypeError as error:
            raise ModelConfigError(
                f"{field}={value!r} is not a data type; write e.g. {field}='bfloat16'."
            ) from error
        if not jax.numpy.issubdtype(dtype, jax.numpy.floating):
            raise ModelConfigError(f"{field}={dtype.name} is not a floating-point type.")
        object.__setattr__(config, field, dtype)


def require_positive(config: Any, *fields: str) -> None:
    """Raises `ModelConfigError` unless every named field is at least 1."""
    for field in fields:
        if getattr(config, field) < 1:
            raise ModelConfigError(f"{field}={getattr(config, field)} must be at least 1.")


def require_divisible(config: Any, whole: str, part: str) -> None:
    """Raises `ModelConfigError` unless field `whole` is a multiple of field `part`."""
    if getattr(config, whole) % getattr(config, part):
        raise ModelConfigError(
            f"{whole}={getattr(config, whole)} is not a multiple of {part}={getattr(config, part)}."
        )


def require_remat(remat: str) -> None:
    """Raises `ModelConfigError` unless `remat` is one of the known choices."""
    if remat != "none" and remat not in REMAT_POLICIES:
        raise ModelConfigError(
            f"remat={remat!r} is unknown; use one of 'none', "
            f"{', '.join(map(repr, REMAT_POLICIES))}."
        )


def require_rate(config: Any, field: str) -> None:
    """Raises `ModelConfigError` unless the named field lies in [0, 1)."""
    if not 0 <= getattr(config, field) < 1:
        raise ModelConfigError(f"{field}={getattr(config, field)} must lie in [0, 1).")


def with_remat(block: type[nn.Module], remat: Remat, *, scan: bool = False) -> type[nn.Module]:
    """The block's class, its backward pass recomputing what `remat` says.

    Args:
        block: A module class.
        remat: What to recompute.
        scan: Whether the block will run inside a scan: the loop already keeps XLA from merging
            the recomputation away.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan)


def apply_blocks(
    block: type[nn.Module],
    x: jax.Array,
    shared: Any,
    *,
    args: tuple[Any, ...],
    layers: int,
    scan: bool,
    remat: Remat,
    name: str,
) -> jax.Array:
    """Runs `layers` blocks after one another. Call it inside an `nn.compact` method.

    Args:
        block: Module class whose `__call__(x, shared)` returns `(x, None)`.
        x: Activations `[batch, length, hidden]`.
        shared: Second argument, the same for every layer.
        args: Positional fields of each block.
        layers: How many blocks.
        scan: Roll the layers into one `nn.scan`; parameters then lie under `name` with a
            leading layer dimension. Otherwise they lie under `{name}_0`, `{name}_1`, ...
        remat: What the backward pass recomputes.
        name: The blocks' name in the parameter tree.

    Returns:
        Activations of `x`'s shape.
    """
    block = with_remat(block, remat, scan=scan)
    if scan:
        broadcast: Any = nn.broadcast  # annotated as an int, which it is not
        stack = nn.scan(
            block,
            # `losses` is what the blocks of a sparse model sow.
            variable_axes={"params": 0, "losses": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=broadcast,
            length=layers,
        )
        return stack(*args, name=name)(x, shared)[0]
    for layer in range(layers):
        x, _ = block(*args, name=f"{name}_{layer}")(x, shared)
    return x
