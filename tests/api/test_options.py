"""Options and arguments that cannot work are refused in one sentence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

import autoshard
from autoshard.errors import (
    ArgumentError,
    MeshError,
    OptionError,
    StateStructureError,
    StrategyError,
    UnknownPrimitiveError,
)

TX = optax.adam(1e-2)
X = jax.ShapeDtypeStruct((16, 8), jnp.float32)


def create(rng):
    k1, k2 = jax.random.split(rng)
    params = {
        "up": jax.random.normal(k1, (8, 32)),
        "down": jax.random.normal(k2, (32, 8)),
    }
    return params, TX.init(params)


def loss_fn(params, x):
    return jnp.mean((jnp.tanh(x @ params["up"]) @ params["down"] - x) ** 2)


def step(state: Any, x: Any) -> Any:
    params, opt_state = state
    loss, grads = jax.value_and_grad(loss_fn)(params, x)
    updates, opt_state = TX.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def data(rows=16, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 8), np.float32)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"strategy": "zero9"}, StrategyError),
        ({"strategy": "dp@rows"}, StrategyError),
        ({"strategy": "dp+tensor"}, StrategyError),
        ({"mesh": "data=3"}, MeshError),
        ({"mesh": "data"}, MeshError),
        ({"mesh": 7}, MeshError),
    ],
)
def test_bad_options(options, error):
    with pytest.raises(error):
        autoshard.parallelize(step, **options)(jax.jit(create)(jax.random.key(0)), data())


def test_bad_arguments():
    with pytest.raises(ArgumentError, match="static_argnames"):
        autoshard.parallelize(step)({"name": "text"}, data())
    with pytest.raises(OptionError, match="donate"):
        autoshard.parallelize(step, donate="never")

    def loses_a_moment(state, x):
        (params, opt_state), loss = step(state, x)
        return (params, opt_state[0]), loss

    with pytest.raises(StateStructureError, match="Mend it"):
        autoshard.parallelize(loses_a_moment).init(create, jax.random.key(0), step_args=(X,))


def unknown():
    primitive = Primitive("mystery")
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, lambda ctx, x: [x])
    return lambda x: primitive.bind(x * 2) + 1


def test_strict_refuses_primitives_without_a_rule():
    function, x = unknown(), jnp.ones((16, 8))
    relaxed = autoshard.parallelize(function, strategy="dp")
    np.testing.assert_array_equal(relaxed(x), x * 2 + 1)
    assert any("mystery" in note for note in relaxed.last_plan.notes)
    strict = autoshard.parallelize(function, strategy="dp", strict=True)
    with pytest.raises(UnknownPrimitiveError, match=r"mystery.*1×") as caught:
        strict(x)
    assert caught.value.unknown == {"mystery": 1}
    assert "register_rule" in str(caught.value)
