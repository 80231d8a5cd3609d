"""Trees that nobody saves on purpose: each comes back bit by bit, or is refused before a byte."""

import collections
import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from checkpoint_trees import assert_same, bits, mesh, on
from flax import nnx

import autoshard.checkpoint as ck
from autoshard.checkpoint.layouts.convert import convert
from autoshard.errors import (
    CheckpointError,
    CheckpointKeyError,
    CheckpointLeafError,
    CheckpointMismatchError,
)

ONE = np.ones(1)
NAMES = [
    "bool", "int1", "uint1", "int2", "uint2", "int4", "uint4", "int8", "uint16", "int64", "float16",
    "bfloat16", "float32", "float64", "complex64", "complex128", "float4_e2m1fn", "float6_e2m3fn",
    "float6_e3m2fn", "float8_e3m4", "float8_e4m3", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e4m3b11fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip


class Pair(NamedTuple):
    a: Any
    b: Any


@flax.struct.dataclass
class Record:
    x: Any
    y: Any
    name: str = flax.struct.field(pytree_node=False, default="n")


class Level(enum.IntEnum):
    LOW = 1


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def every_type():
    values = np.random.default_rng(0).integers(0, 2, (33, 5))
    return {n: {"w": values.astype(dtype(n)), "s": values.astype(dtype(n))[0, 0]} for n in NAMES}


def deep(levels, leaf):
    for _ in range(levels):
        leaf = [leaf]
    return leaf


def optimizers():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones(4)}
    steps = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2).gradient_transformation()
    return optax.chain(optax.masked(optax.adamw(1e-3), {"a": True, "b": False}), steps).init(params)


def modules():
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(8, rngs=nnx.Rngs(0)),
        nnx.Dropout(0.1, rngs=nnx.Rngs(dropout=1)),
    )
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    return {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}


def keys():
    found = {}
    for implementation in ("threefry2x32", "rbg", "unsafe_rbg"):
        key = jax.random.key(3, impl=implementation)
        several = jax.random.split(key, 8)
        on_mesh = jax.device_put(several, on(mesh("d=8"), "d"))
        found[implementation] = [key, several.reshape(2, 4), several[:0], on_mesh]
    return {**found, "raw": jax.random.PRNGKey(0)}


TREES: dict[str, Callable[[], Any]] = {
    "every type": every_type,
    "keys of each kind": keys,
    "dimensions of 0 and 1": lambda: {
        "a": np.zeros((0,)), "b": np.zeros((3, 0, 2), "f4"), "c": ONE, "d": np.ones((1, 1, 1)),
        "e": jnp.zeros((1, 0)), "f": np.array(3.5), "g": jnp.float32(2), "h": np.zeros((7, 1), "?"),
    },
    "nothing": dict,
    "None alone": lambda: None,
    "empty containers": lambda: {"n": None, "d": {}, "l": [], "t": (), "x": {"y": {"e": {}}}},
    "names": lambda: dict.fromkeys(
        ["a%2Fb", "c%", "q/b", "x.y", ".hidden", "...", "ünï 文 🎉", "é", "e\u0301", " x", "x\ny",
         "*", "?[", "~", "C:", "'", '"', "A", "a", "#"], ONE),
    "numbers as keys": lambda: {0: ONE, 10: ONE, -3: {2: ONE}},
    "containers": lambda: {
        "pair": Pair(ONE, [ONE, (ONE,)]), "record": Record(ONE, Pair(1, None)),
        "ordered": collections.OrderedDict(b=ONE, a=ONE),
        "default": collections.defaultdict(list, {"q": ONE}),
    },
    "optimizers": optimizers,
    "modules": modules,
    "values": lambda: {
        "s": "a\nb\0c", "half": "\ud800", "b": b"\x00\xff", "c": 1e300 - 2j, "h": -(2**300),
        "inf": -math.inf, "z": -0.0, "flag": np.bool_(True), "day": np.datetime64("2020-01-01"),
        "w": ONE,
    },
    "sixty levels": lambda: deep(60, ONE),
    "explicit axes": lambda: {"x": jax.device_put(
        jnp.arange(16.0), jax.NamedSharding(jax.make_mesh((8,), ("d",)), jax.P("d")))},
    "three hundred leaves": lambda: {f"w{i}": np.full(i % 7, i, "f4") for i in range(300)},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_comes_back(name, tmp_path):
    tree = TREES[name]()
    saved = ck.save(tmp_path / "c", tree)
    ck.verify(tmp_path / "c").check()
    assert_same(ck.load(tmp_path / "c", tree), tree)
    ck.load(tmp_path / "c")
    convert(tmp_path / "c", tmp_path / "d")
    ck.verify(tmp_path / "d").check()
    assert ck.metadata(tmp_path / "d").digest == saved.digest
    assert_same(ck.load(tmp_path / "d", tree), tree)


def test_orbax_opens_them(tmp_path):
    """Whatever name or type a leaf has; what orbax cannot hold, it finds empty."""
    orbax = pytest.importorskip("orbax.checkpoint.experimental.v1")
    for i, name in enumerate(["names", "values", "every type", "dimensions of 0 and 1"]):
        ck.save(tmp_path / str(i), TREES[name]())
        orbax.load(tmp_path / str(i))
    found = orbax.load(tmp_path / "0")
    assert len(found) == len(TREES["names"]()) and all((v == 1).all() for v in found.values())


def deleted():
    array = jnp.ones(8)
    array.delete()
    return array


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        (lambda: {"x": np.ma.masked_array(ONE, ONE > 0)}, CheckpointLeafError, "with a mask"),
        (lambda: {"x": deleted()}, CheckpointLeafError, "donated or deleted"),
        (lambda: {"x": Level.LOW}, CheckpointLeafError, "a Level"),
        (lambda: {"x": np.str_("a")}, CheckpointLeafError, "a str_"),
        (lambda: {"x": np.void(b"a")}, CheckpointLeafError, "a void"),
        (lambda: {"x": np.longdouble(1)}, CheckpointLeafError, "a longdouble"),
        (lambda: {"x": np.ones(2, np.longdouble)}, CheckpointLeafError, "float128|longdouble"),
        (lambda: {"x": {1, 2}}, CheckpointLeafError, "a set"),
        (lambda: {"C:\\x": ONE}, CheckpointKeyError, "backslash"),
        (lambda: {"\ud800": ONE}, CheckpointKeyError, "no valid Unicode"),
        (lambda: {True: ONE}, CheckpointKeyError, "a key of type bool"),
        (lambda: {1: ONE, "a": ONE}, CheckpointKeyError, "cannot be compared"),
        (lambda: deep(2000, ONE), CheckpointKeyError, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("save", [ck.save, ck.save_async])
def test_refused(save, tree, error, text, tmp_path):
    with pytest.raises(error, match=text) as caught:
        save(tmp_path / "c", tree())
    assert "nothing has been written" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_traced_value_is_refused(tmp_path):
    def step(x):
        ck.save(tmp_path / "c", {"x": x})
        return x

    with pytest.raises(CheckpointLeafError, match="outside of jit"):
        jax.jit(step)(jnp.ones(2))
    assert not list(tmp_path.iterdir())


def test_metadata_is_what_comes_back(tmp_path):
    saved = ck.save(
        tmp_path / "c", {"w": ONE}, step=cast(int, np.int64(3)), metadata={"a": (1, {"b": None})}
    )
    assert saved == ck.metadata(tmp_path / "c")
    assert saved.step == 3 and saved.metadata == {"a": [1, {"b": None}]}
    wrong: Any
    for wrong in ({1: 2}, {"a": np.ones(1)}, {"a": [{"b": np.float32(1)}]}):
        with pytest.raises(CheckpointError, match="metadata"):
            ck.save(tmp_path / "d", {"w": ONE}, metadata=wrong)
    step: Any
    for step in (-1, "5", 1.5):
        with pytest.raises(CheckpointError, match="is no count of steps"):
            ck.save(tmp_path / "d", {"w": ONE}, step=step)
        with pytest.raises(CheckpointError, match="is no count of steps"):
            ck.Checkpointer(tmp_path / "run").save(step, {"w": ONE})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_no_number_is_best(tmp_path):
    keep = ck.KeepPolicy(last=1, best="loss")
    with ck.Checkpointer(tmp_path, keep=keep, background=False) as checkpointer:
        for step, loss in enumerate([3.0, math.nan, 1.0, math.nan, 2.0, math.nan], 1):
            checkpointer.save(step, {"w": ONE}, metrics=cast(Any, {"loss": np.float32(loss)}))
    assert checkpointer.steps() == [3, 6]


def test_shardings_that_do_not_fit(tmp_path):
    ck.save(tmp_path / "c", {"x": jnp.ones((6, 4)), "y": jnp.ones(8)})
    sharding = on(mesh("d=8"), "d")
    target = {
        "x": jax.ShapeDtypeStruct((6, 4), np.float32, sharding=sharding),
        "y": jax.ShapeDtypeStruct((8,), np.float32, sharding=sharding),
    }
    with pytest.raises(CheckpointMismatchError) as caught:
        ck.load(tmp_path / "c", target)
    assert list(caught.value.differing) == ["x"]
    assert "on {'d': 8} does not fit its shape [6, 4]" in str(caught.value)


def test_other_kinds_of_memory(tmp_path):
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    ck.save(tmp_path / "c", {"x": jnp.arange(16.0)})
    for kind in kinds:
        sharding = on(mesh("d=8"), "d").with_memory_kind(kind)
        target = {"x": jax.ShapeDtypeStruct((16,), np.float32, sharding=sharding)}
        found = ck.load(tmp_path / "c", target)["x"]
        assert found.sharding == sharding and bits(found) == bits(np.arange(16, dtype="f4"))
