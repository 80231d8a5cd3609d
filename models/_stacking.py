"""Between the parameters of unrolled layers and those of the same layers rolled into a scan."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from autoshard.models.errors import ModelError


def stack_layers(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Joins `{name}_0`, `{name}_1`, ... into one entry `name` with a leading layer dimension.

    Args:
        params: Parameters of an unrolled model.
        name: The layers' common name: "h" in GPT-2, "layers" in Llama.

    Returns:
        Parameters of the scanned model; other entries as they are.

    Raises:
        ModelError: `params` has no such layers, or a gap in their numbering.
    """
    layers = {int(m[1]): key for key in params if (m := re.fullmatch(rf"{name}_(\d+)", key))}
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise ModelError(
            f"Expected layers {name}_0, {name}_1, ... without a gap; found "
            f"{sorted(layers.values()) or 'none'} among {sorted(params)}."
        )
    rest = {key: value for key, value in params.items() if key not in layers.values()}
    in_order = [params[layers[i]] for i in range(len(layers))]
    return {**rest, name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)}


def unstack_layers(params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Splits entry `name` along its leading layer dimension: the inverse of `stack_layers`.

    Args:
        params: Parameters of a scanned model.
        name: The layers' name: "h" in GPT-2, "layers" in Llama.

    Returns:
        Parameters of the unrolled model; other entries as they are.

    Raises:
        ModelError: `params` has no such entry.
    """
    if name not in params:
        raise ModelError(f"Found no entry {name!r} among {sorted(params)}.")
    rest = {key: value for key, value in params.items() if key != name}
    count = jax.tree.leaves(params[name])[0].shape[0]
    split = {
        f"{name}_{layer}": jax.tree.map(lambda leaf: leaf[layer], params[name])  # noqa: B023
        for layer in range(count)
    }
    return {**rest, **split}
