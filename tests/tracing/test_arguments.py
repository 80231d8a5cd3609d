"""What may be passed, and the paths under which it appears."""

import dataclasses
import datetime
from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.extend.core import AbstractToken
from jax.sharding import PartitionSpec as P

from autoshard.errors import ArgumentError
from autoshard.tracing import Program, Value, abstract, nbytes, parameter_names, path_text, trace

V = jax.ShapeDtypeStruct((4,), jnp.float32)


def paths(program: Program) -> list[str]:
    return [leaf.path for leaf in program.arguments]


def result(program: Program, index: int) -> Value:
    operand = program.result_operand(program.results[index])
    assert isinstance(operand, int)
    return program.values[operand]


class Moments(NamedTuple):
    mean: Any
    count: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


def test_paths_of_containers():
    def function(params, layers, moments, rest, *more, scale, options):
        del layers, moments, rest, more, scale, options
        return {"out": (params["a"]["b"], None), "list": [params["a"]["b"]]}

    program = trace(
        function,
        (
            {"a": {"b": V}},
            [Layer(V, V), None],
            Moments(V, V),
            OrderedDict(z=V, y=(V,)),
            V,
            V,
        ),
        {"scale": V, "options": {"k": V}},
    )
    assert paths(program) == [
        "params/a/b",
        "layers/0/kernel",
        "layers/0/bias",
        "moments/mean",
        "moments/count",
        "rest/z",
        "rest/y/0",
        "arg4",
        "arg5",
        "options/k",
        "scale",
    ]
    assert [leaf.path for leaf in program.results] == ["list/0", "out/0"]


def test_paths_of_a_train_state():
    model = nn.Dense(3)
    x = jnp.ones((2, 4))

    def create():
        params = model.init(jax.random.key(0), x)["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=optax.adamw(1e-3))

    def step(state, batch):
        grads = jax.grad(lambda p: state.apply_fn({"params": p}, batch).sum())(state.params)
        return state.apply_gradients(grads=grads)

    state = jax.eval_shape(create)
    program = trace(step, (state, x))
    assert program.name == "step"
    assert paths(program) == [
        "state/step",
        "state/params/bias",
        "state/params/kernel",
        "state/opt_state/0/count",
        "state/opt_state/0/mu/bias",
        "state/opt_state/0/mu/kernel",
        "state/opt_state/0/nu/bias",
        "state/opt_state/0/nu/kernel",
        "batch",
    ]
    assert [leaf.path for leaf in program.results] == [p[6:] for p in paths(program)[:-1]]


def test_path_of_a_bare_result():
    assert [leaf.path for leaf in trace(lambda x: x, (V,)).results] == ["result"]
    assert path_text(()) == "result"


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda a, b: None, ["a", "b", "arg2"]),
        (lambda a, /, *b, c=0: None, ["a", "arg1", "arg2"]),
        (partial(lambda a, b, c, d: None, 1), ["b", "c", "d"]),
        (jax.jit(lambda a, b, c: None), ["a", "b", "c"]),
        (max, ["arg0", "arg1", "arg2"]),
    ],
)
def test_parameter_names(function, names):
    assert parameter_names(function, 3) == names


def test_names_of_functions():
    def step(x, scale):
        return x * scale

    class Callable:
        def __call__(self, x):
            return x

    assert trace(step, (V, V)).name == "step"
    assert trace(jax.jit(step), (V, V)).name == "step"
    assert trace(partial(partial(step, scale=2.0)), (V,)).name == "step"
    assert trace(Callable(), (V,)).name == "Callable"


class Opaque:
    def __repr__(self):
        return "<opaque>"


@pytest.mark.parametrize(
    "leaf",
    [
        "adamw",
        b"adamw",
        Opaque(),
        datetime.date(2024, 1, 1),
        np.array(["a", "b"]),
        np.array([Opaque()]),
        np.array(["2024-01-01"], "datetime64[D]"),
        np.zeros(3, [("a", "f4"), ("b", "i4")]),
        int,
    ],
    ids=lambda leaf: type(leaf).__name__ + str(getattr(leaf, "dtype", "")),
)
def test_what_is_no_array_is_refused(leaf):
    with pytest.raises(ArgumentError) as error:
        trace(lambda x, config: x, (V, {"optimizer": leaf}))
    assert error.value.path == "config/optimizer"
    assert error.value.value is leaf
    assert "static_argnames=('config',)" in str(error.value)


@pytest.mark.parametrize(
    "leaf",
    [
        True,
        3,
        2.5,
        1j,
        np.float32(2.0),
        np.float64(2.0),
        np.bool_(True),
        np.int8(3),
        np.ones(3),
        np.ones((2, 0)),
        np.ones(3, np.int64),
        np.ones(3, np.uint16),
        np.zeros(2, ml_dtypes.bfloat16),
        jnp.zeros(2, jnp.int4),
        jnp.zeros(2, jnp.float8_e4m3fn),
        jnp.zeros(2, bool),
        jnp.asarray(2.0),
        jnp.arange(3),
    ],
    ids=lambda leaf: f"{type(leaf).__name__}-{getattr(leaf, 'dtype', '')}",
)
def test_arrays_and_numbers_are_seen_as_jit_sees_them(leaf):
    expected = jax.make_jaxpr(lambda x: x)(leaf).in_avals[0]
    found = abstract(leaf, "x")
    assert (found.shape, found.dtype, found.weak_type) == (
        expected.shape,
        expected.dtype,
        expected.weak_type,
    )
    program = trace(lambda x: x, (leaf,))
    assert program.argument_value(program.arguments[0]).dtype == expected.dtype


def test_a_double_struct_is_canonical():
    struct = jax.ShapeDtypeStruct((3,), np.float64)
    assert abstract(struct, "x").dtype == jax.dtypes.canonicalize_dtype(np.float64)


def test_weak_types_survive():
    struct = jax.ShapeDtypeStruct((), jnp.float32, weak_type=True)
    program = trace(lambda x, y: (x, x * y), (struct, jax.ShapeDtypeStruct((), jnp.bfloat16)))
    assert program.argument_value(program.arguments[0]).aval.weak_type
    product = result(program, 1)
    assert product.dtype == jnp.bfloat16


def test_keys_and_nbytes():
    key = jax.random.key(0)
    program = trace(lambda k: jax.random.split(k, 3), (key,))
    (leaf,) = program.arguments
    value = program.argument_value(leaf)
    assert value.shape == ()
    assert jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    assert value.nbytes == 8
    assert result(program, 0).nbytes == 24


def test_nbytes():
    assert nbytes(V) == 16
    assert nbytes(jax.ShapeDtypeStruct((2, 0), jnp.float32)) == 0
    assert nbytes(jax.ShapeDtypeStruct((3,), jnp.bool_)) == 3
    assert nbytes(jax.ShapeDtypeStruct((3,), jnp.bfloat16)) == 6
    assert nbytes(AbstractToken()) == 0


def test_none_leaves_are_no_leaves():
    program = trace(lambda x, y: (x["a"], y, None), ({"a": V, "b": None}, None))
    assert paths(program) == ["x/a"]
    assert len(program.results) == 1
    assert jax.tree.unflatten(program.out_tree, [1]) == (1, None, None)


def test_no_arguments_and_constant_results():
    program = trace(lambda: (1.0, jnp.zeros(3)))
    assert program.arguments == ()
    assert [leaf.path for leaf in program.results] == ["0", "1"]


def test_one_value_returned_twice_and_an_argument_returned():
    program = trace(lambda x, y: (x, x, y + 1), (V, V))
    first, second, _ = map(program.result_operand, program.results)
    assert first == second == program.argument_value(program.arguments[0]).id


def test_nothing_is_allocated():
    huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32)  # 4 TiB
    before = len(jax.live_arrays())
    program = trace(lambda x: jnp.sin(x) @ jnp.ones((1 << 20, 1 << 10)), (huge,))
    assert len(jax.live_arrays()) == before
    assert result(program, 0).nbytes == 1 << 32


def test_the_sharding_of_an_argument_is_left_behind():
    mesh = jax.make_mesh((8,), ("data",))  # Explicit axes: their avals would carry the sharding
    sharding = jax.sharding.NamedSharding(mesh, P("data"))
    x = jax.device_put(jnp.arange(16.0), sharding)
    program = trace(lambda x: x * 2.0, (x,))
    assert program.argument_value(program.arguments[0]).aval.sharding.spec == P(None)
