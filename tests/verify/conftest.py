"""Meshes of eight devices, and the text of what is compiled for them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESHES = {
    "8": {"x": 8},
    "2x4": {"data": 2, "model": 4},
    "4x2": {"data": 4, "model": 2},
    "2x2x2": {"a": 2, "b": 2, "c": 2},
}


def make_mesh(axes: dict[str, int], order: Sequence[int] = range(8)) -> Mesh:
    devices = np.array(jax.devices())[list(order)]
    return Mesh(devices.reshape(tuple(axes.values())), tuple(axes))


@pytest.fixture(params=MESHES.values(), ids=list(MESHES))
def mesh(request: pytest.FixtureRequest) -> Mesh:
    """Each of the four meshes in turn."""
    return make_mesh(request.param)


@pytest.fixture
def mesh_2x4() -> Mesh:
    return make_mesh(MESHES["2x4"])


@pytest.fixture
def permuted_mesh_2x4() -> Mesh:
    """The same, on devices in another order."""
    return make_mesh(MESHES["2x4"], order=(0, 4, 1, 5, 2, 6, 3, 7))


@pytest.fixture
def struct() -> Callable[..., jax.ShapeDtypeStruct]:
    """An abstract array: `struct(mesh, (16, 32), "data", None)`."""

    def make(
        mesh: Mesh, shape: tuple[int, ...], *spec: Any, dtype: Any = jnp.float32
    ) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return make


@pytest.fixture
def compile_text() -> Callable[..., str]:
    """Optimized HLO: `compile_text(f, *args, out=sharding)`."""

    def compiled(f: Callable[..., Any], *args: Any, out: Any = None) -> str:
        jitted = jax.jit(f) if out is None else jax.jit(f, out_shardings=out)
        text = jitted.lower(*args).compile().as_text()
        assert text is not None
        return text

    return compiled
