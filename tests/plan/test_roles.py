"""State and data are told apart by structure; names never matter."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training.train_state import TrainState

from autoshard.errors import StateStructureError
from autoshard.plan import find_roles

X = jax.ShapeDtypeStruct((16, 4), jnp.float32)
Y = jax.ShapeDtypeStruct((16,), jnp.float32)
W = {"w": jax.ShapeDtypeStruct((4, 8), jnp.float32), "b": jax.ShapeDtypeStruct((8,), jnp.float32)}
KEY = jax.eval_shape(jax.random.key, 0)
RAW_KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)


def forward(w, x):
    return x @ w["w"] + w["b"][None]


def loss(w, x, y):
    return jnp.mean((forward(w, x).sum(-1) - y) ** 2)


@pytest.fixture
def roles(ruled):
    """`(paths of state → path of the result, paths of data)` of a function."""

    def find(function, *args):
        program = ruled(function, *args)
        found = find_roles(program)
        paths = {leaf.op: leaf.path for leaf in program.program.arguments}
        results = {leaf.op: leaf.path for leaf in program.program.results}
        state = {paths[a]: results[r] for a, r in found.state_of_argument.items()}
        assert found.argument_of_result == {r: a for a, r in found.state_of_argument.items()}
        return state, {paths[op] for op in found.data}

    return find


def test_train_state(roles):
    module, tx = nn.Dense(8), optax.adam(1e-3)

    def create(key):
        params = module.init(key, jnp.ones((1, 4)))["params"]
        return TrainState.create(apply_fn=module.apply, params=params, tx=tx)

    def step(state, batch):
        def objective(params):
            return jnp.mean(state.apply_fn({"params": params}, batch["x"]) ** 2)

        value, grads = jax.value_and_grad(objective)(state.params)
        return state.apply_gradients(grads=grads), {"loss": value}

    state, data = roles(step, jax.eval_shape(create, KEY), {"x": X})
    assert state["state/params/kernel"] == "0/params/kernel"
    assert state["state/opt_state/0/mu/kernel"] == "0/opt_state/0/mu/kernel"
    assert state["state/step"] == "0/step"
    assert len(state) == 9
    assert data == {"batch/x"}


def test_raw_trees(roles):
    tx = optax.adam(1e-3)

    def step(params, opt_state, batch):
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    state, data = roles(step, W, jax.eval_shape(tx.init, W), (X, Y))
    assert state["params/w"] == "0/w"
    assert state["opt_state/0/nu/b"] == "1/0/nu/b"
    assert data == {"batch/0", "batch/1"}


def test_a_parameter_and_a_batch_of_one_array_each(roles):
    def step(w, m, x):
        value, g = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(w)
        m = 0.9 * m + g
        return w - m, m, value

    state, data = roles(step, W["w"], W["w"], X)
    assert state == {"w": "0", "m": "1"}
    assert data == {"x"}


def test_state_alone_is_returned(roles):
    def step(params, x, y):
        return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params, x, y))

    state, data = roles(step, W, X, Y)
    assert state == {"params/w": "w", "params/b": "b"}
    assert data == {"x", "y"}


def test_state_that_does_not_come_first(roles):
    def step(batch, params):
        return loss(params, *batch), jax.tree.map(lambda p: p * 0.9, params)

    state, data = roles(step, (X, Y), W)
    assert state == {"params/b": "1/b", "params/w": "1/w"}
    assert data == {"batch/0", "batch/1"}


def test_a_forward_pass_and_an_evaluation_have_no_state(roles):
    assert roles(forward, W, X) == ({}, {"x"})
    assert roles(loss, W, X, Y) == ({}, {"x", "y"})
    assert roles(lambda w, b: {"loss": loss(w, *b)}, W, (X, Y)) == ({}, {"b/0", "b/1"})


def test_a_forward_pass_that_keeps_the_shape_has_no_state(roles):
    square = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    assert roles(lambda w, x: x @ w, square, square) == ({}, {"x"})


def test_captured_arrays_are_neither(roles):
    w = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
    assert roles(lambda x: forward(w, x), X) == ({}, {"x"})


@pytest.mark.parametrize("key", [KEY, RAW_KEY], ids=["typed", "raw"])
def test_keys_are_no_data(roles, key):
    def step(params, x, rng):
        first, second = jax.random.split(rng)
        keep = jax.random.bernoulli(first, 0.5, x.shape)
        noise = jax.random.normal(jax.random.fold_in(second, 1), (16,))
        value, grads = jax.value_and_grad(loss)(params, x * keep, noise)
        return jax.tree.map(lambda p, g: p - g, params, grads), value

    state, data = roles(step, W, X, key)
    assert state == {"params/b": "0/b", "params/w": "0/w"}
    assert data == {"x"}


@pytest.mark.parametrize("key", [KEY, RAW_KEY], ids=["typed", "raw"])
def test_keys_that_enter_a_loop_are_no_data(roles, key):
    def step(params, x, rng):
        def body(p, k):
            noisy = x + jax.random.normal(k, x.shape)
            return jax.tree.map(lambda p, g: p - g, p, jax.grad(loss)(p, noisy, x[:, 0])), None

        return jax.lax.scan(body, params, jax.random.split(rng, 3))[0], jnp.sum(x)

    def carried(params, x, rng):
        def body(_, carry):
            p, k = carry
            k, sub = jax.random.split(k)
            return jax.tree.map(lambda p: p + jax.random.normal(sub, p.shape), p), k

        return jax.lax.fori_loop(0, 3, body, (params, rng))[0], jnp.sum(x)

    for function in (step, carried):
        assert roles(function, W, X, key)[1] == {"x"}


def test_a_key_inside_the_state_is_state(roles):
    def step(state, x):
        key, sub = jax.random.split(state["key"])
        noisy = x + jax.random.normal(sub, x.shape)
        grads = jax.grad(loss)(state["w"], noisy, x[:, 0])
        new = jax.tree.map(lambda p, g: p - g, state["w"], grads)
        return {"w": new, "key": key}, jnp.sum(x)

    state, data = roles(step, {"w": W, "key": KEY}, X)
    assert state["state/key"] == "0/key"
    assert data == {"x"}


def test_names_do_not_matter(roles):
    def step(batch, params):  # the batch is called params, and the other way round
        return jax.tree.map(lambda p, g: p - g, batch, jax.grad(loss)(batch, *params)), 0.0

    state, data = roles(step, W, (X, Y))
    assert state == {"batch/b": "0/b", "batch/w": "0/w"}
    assert data == {"params/0", "params/1"}


def test_a_state_that_comes_back_otherwise_is_refused(roles):
    tx = optax.adam(1e-3)

    def step(state, x, y):
        params, opt_state = state["params"], state["opt"]
        updates, opt_state = tx.update(jax.grad(loss)(params, x, y), opt_state)
        params = optax.apply_updates(params, updates)
        w, b = params["w"], params["b"]  # pyright: ignore
        params = {"w": w, "b": jnp.asarray(b, jnp.bfloat16)}
        return {"params": params, "opt": opt_state}, 0.0

    with pytest.raises(StateStructureError) as caught:
        roles(step, {"params": W, "opt": jax.eval_shape(tx.init, W)}, X, Y)
    assert caught.value.differences == ("  state/params/b: takes float32[8], returns bfloat16[8]",)


def test_a_state_that_loses_a_leaf_is_refused(roles):
    tx = optax.adam(1e-3)

    def step(params, opt_state, x):
        return {"w": params["w"] * x.mean()}, opt_state, 0.0

    # The optimizer's state comes back, so nothing of the parameters is required to.
    assert roles(step, W, jax.eval_shape(tx.init, W), X)[0]["opt_state/0/mu/w"] == "1/0/mu/w"

    def whole(state, x):
        return {k: jax.tree.map(lambda v: v * x.mean(), v) for k, v in state.items() if k != "c"}

    with pytest.raises(StateStructureError, match=r"state/c: takes float32\[8\], returns nothing"):
        roles(whole, {"a": W["w"], "b": W["b"], "c": W["b"], "d": W["b"]}, X)
