"""Trees to save, and bitwise comparison."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from flax.training.train_state import TrainState
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def mesh(text: str) -> Mesh:
    """A mesh of Auto axes from ``data=4,model=2``, over the first devices."""
    sizes = {k: int(v) for k, v in (part.split("=") for part in text.split(","))}
    devices = np.array(jax.devices()[: int(np.prod(list(sizes.values())))])
    kinds = (AxisType.Auto,) * len(sizes)
    return Mesh(devices.reshape(tuple(sizes.values())), tuple(sizes), axis_types=kinds)


def on(mesh: Mesh, *spec: Any) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*spec))


def bits(leaf: Any) -> tuple[Any, ...]:
    """What two equal leaves have in common: dtype, shape and every bit."""
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return ("key", str(jax.random.key_impl(leaf)), *bits(jax.random.key_data(leaf)))
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        return (array.dtype, array.shape, array.tobytes())
    return (type(leaf), leaf)


def assert_same(left: Any, right: Any) -> None:
    """The same tree, bit by bit."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    a, b = (jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (left, right))
    for (path, x), (_, y) in zip(a, b, strict=True):
        assert bits(x) == bits(y), jax.tree_util.keystr(path)


def random_array(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    """Any bits that the dtype has, NaN payloads and negative zeros included."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    if dtype == np.bool_:
        return raw[..., 0] % 2 == 1
    if dtype.name in ("int4", "uint4", "int2"):
        bits = 4 if "4" in dtype.name else 2
        low = -(2 ** (bits - 1)) if dtype.name.startswith("i") else 0
        return (raw[..., 0].astype(np.int8) % 2**bits + low).astype(dtype)
    if dtype.name == "float4_e2m1fn":
        return (raw % 16).view(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


DTYPES = [
    *(np.float32, np.float16, np.int8, np.int32, np.uint16, np.uint32, np.bool_, np.complex64),
    *(ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn),
    *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3b11fnuz, ml_dtypes.float4_e2m1fn),
]


def every_kind() -> dict[str, Any]:
    """A tree with all that can be saved."""
    params = {"w": jnp.arange(64.0 * 48).reshape(64, 48), "b": jnp.ones((48,), jnp.bfloat16)}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    state = TrainState.create(apply_fn=None, params=params, tx=optimizer)
    return {
        "state": state,
        "dtypes": {np.dtype(d).name: random_array((5, 7), d) for d in DTYPES},
        "jax": {np.dtype(d).name: jnp.asarray(random_array((6, 3), d, 1)) for d in DTYPES},
        "wide": np.array([1, 2**40], np.int64),
        "doubles": np.array([0.1, -0.0]),
        "order": np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
        "big": np.arange(4, dtype=">f4"),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2), (2, 3)),
        "rbg": jax.random.key(3, impl="rbg"),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.float32(3),
        "weak": jnp.asarray(2.5),
        "step": 7,
        "huge": 2**200,
        "rate": 0.1,
        "flag": True,
        "wave": 1 - 2j,
        "text": "grüße",
        "bytes": b"\0\xff",
        "numpy": np.float32(0.1),
        "none": None,
        "nothing": {"list": [], "tuple": (), "dict": {}},
        "int keys": {3: jnp.ones(2), -1: jnp.zeros(2)},
        "a/b": {"c.d": jnp.ones(3), "%2F": jnp.zeros(1)},
        "sequence": [jnp.ones(1), (jnp.zeros(2), 5)],
    }
