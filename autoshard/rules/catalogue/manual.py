"""Variants of ops that cannot be run by themselves: collectives and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental import io_callback
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from autoshard.rules.catalogue._variant import Table, f32


def _inside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function on one of two devices."""
    mesh = AbstractMesh((2,), ("x",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False)


def _print(x: jax.Array) -> jax.Array:
    jax.debug.print("{}", x)
    return x


def _debug_callback(x: jax.Array) -> jax.Array:
    jax.debug.callback(print, x)
    return x


_X = f32(8, 4, 6)  # (4, 4, 6) on each device

TABLE: Table = {
    "all_gather": {
        "tiled": (_inside(lambda x: lax.all_gather(x, "x", axis=1, tiled=True)), _X),
        "untiled": (_inside(lambda x: lax.all_gather(x, "x", axis=1)), _X),
    },
    "all_to_all": {
        "tiled": (_inside(lambda x: lax.all_to_all(x, "x", 0, 1, tiled=True)), _X),
        "untiled": (_inside(lambda x: lax.all_to_all(x[:2], "x", 0, 1)), _X),
    },
    "axis_index": {"plain": (_inside(lambda x: lax.axis_index("x")), _X)},
    "debug_callback": {"plain": (_debug_callback, f32(4, 6))},
    "debug_print": {"plain": (_print, f32(4, 6))},
    "io_callback": {"plain": (lambda x: io_callback(lambda x: x, x, x), f32(4, 6))},
    "pmax": {"plain": (_inside(lambda x: lax.pmax(x, "x")), _X)},
    "pmin": {"plain": (_inside(lambda x: lax.pmin(x, "x")), _X)},
    "ppermute": {"plain": (_inside(lambda x: lax.ppermute(x, "x", [(0, 1), (1, 0)])), _X)},
    "psum": {"plain": (_inside(lambda x: lax.psum(x, "x")), _X)},
    "pure_callback": {"plain": (lambda x: jax.pure_callback(lambda x: x, x, x), f32(4, 6))},
    "reduce_scatter": {
        "tiled": (
            _inside(lambda x: lax.psum_scatter(x, "x", scatter_dimension=1, tiled=True)),
            _X,
        ),
        "untiled": (_inside(lambda x: lax.psum_scatter(x[:, :2], "x", scatter_dimension=1)), _X),
    },
}
