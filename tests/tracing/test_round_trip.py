"""A program computes what its function computes."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from autoshard.tracing import trace

X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
W = jnp.linspace(-0.5, 0.5, 16).reshape(4, 4)
KEY = jax.random.key(7)


@jax.custom_vjp
def clipped(x):
    return jnp.tanh(x)


clipped.defvjp(lambda x: (jnp.tanh(x), x), lambda x, ct: (jnp.clip(ct * x, -0.1, 0.1),))


@jax.custom_jvp
def ramp(x):
    return jnp.maximum(x, 0.0)


ramp.defjvp(lambda p, t: (ramp(p[0]), jnp.where(p[0] > 0, 2.0, 0.5) * t[0]))


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def scan_remat_loss(w, x):
    body = jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), c.sum()))
    c, ys = lax.scan(body, x, w)
    return c.sum() + ys.mean()


def policy_loss(w, x):
    policy = jax.checkpoint_policies.dots_saveable
    f = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(x @ w) @ w), policy=policy)
    return f(w, x).sum()


def dropout(key, x):
    keep = jax.random.bernoulli(jax.random.fold_in(key, 3), 0.7, x.shape)
    return jnp.where(keep, x / 0.7, 0.0)


def many_draws(key):
    out = []
    for _ in range(3):
        key, sub = jax.random.split(key)
        out.append(jax.random.normal(sub, (3,)) * jax.random.uniform(sub, (3,)))
    return jnp.stack(out), jax.random.key_data(key)


def random_walk(key, x):
    def body(carry, _):
        key, x = carry
        key, sub = jax.random.split(key)
        return (key, x + jax.random.normal(sub, x.shape)), x.sum()

    (_, x), trace_ = lax.scan(body, (key, x), None, length=4)
    return x, trace_


def newton(x):
    def body(state):
        i, x = state
        return i + 1, x - (x * x - 2.0) / (2.0 * x)

    return lax.while_loop(lambda s: (s[0] < 20) & (abs(s[1] ** 2 - 2.0) > 1e-5), body, (0, x))


def cond_in_scan(x):
    def body(c, i):
        c = lax.cond(i % 2 == 0, lambda c: c * 1.5, lambda c: jnp.sin(c) + 1.0, c)
        return lax.switch(i % 3, [jnp.cos, lambda c: c, lambda c: c - c.mean()], c), c.max()

    return lax.scan(body, x, jnp.arange(5), reverse=True)


def scan_in_while(x):
    def body(state):
        i, c = state
        return i + 1, lax.scan(lambda c, w: (c @ w, None), c, jnp.stack([W, W.T]))[0]

    return lax.while_loop(lambda s: s[0] < 3, body, (0, x))


def adamw_step(params, opt_state, x):
    tx = optax.adamw(1e-2)

    def loss(p):
        h = ramp(x @ p["w"]) @ p["w"] + p["b"]
        return (h**2).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


def cnn_step(variables, x):
    def loss(p):
        out, updated = Cnn().apply(
            {"params": p, "batch_stats": variables["batch_stats"]}, x, True, mutable=["batch_stats"]
        )
        return (out**2).mean(), updated

    return jax.grad(loss, has_aux=True)(variables["params"])


def on_shards(x):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    f = jax.shard_map(
        lambda x: x - lax.pmean(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    return f(jnp.sin(x)) * 2.0


def linear_solve(a, b):
    return jnp.linalg.solve(a @ a.T + 5.0 * jnp.eye(4), b.T).T


def aliased(x, y):
    x, y = y, x
    return {"x": x, "again": x, "sum": x + y, "none": None, "number": 3}


CASES = {
    "arithmetic": (lambda x: (x * 2.0 + 1.0) / 3.0 - x**3, (X,)),
    "matmul chain": (lambda x, w: jnp.einsum("ij,jk,lk->il", x, w, w), (X, W)),
    "softmax": (lambda x: jax.nn.softmax(x, axis=-1) + jax.nn.log_softmax(x), (X,)),
    "attention": (lambda x: jax.nn.dot_product_attention(*[x.reshape(1, 3, 2, 2)] * 3), (X,)),
    "gather and scatter": (lambda x: x.at[jnp.array([0, 2])].add(x[1]).at[1, 2].set(9.0), (X,)),
    "dynamic slices": (
        lambda x, i: lax.dynamic_update_slice(x, x[:1] * 2, (i, 0))[lax.rem(i, 3)],
        (X, jnp.int32(2)),
    ),
    "sort": (lambda x: (jnp.sort(x, 0), jnp.argsort(x, 1), lax.top_k(x, 2)), (X,)),
    "fft": (lambda x: jnp.fft.rfft(x).real, (X,)),
    "cholesky": (lambda w: jnp.linalg.cholesky(w @ w.T + 3.0 * jnp.eye(4)), (W,)),
    "linear solve": (linear_solve, (W, X)),
    "cumsum": (lambda x: jnp.cumsum(x, 1) + lax.cummax(x, axis=0), (X,)),
    "bf16": (lambda x: (x.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16)).astype(jnp.float32), (X,)),
    "int4": (lambda x: x.astype(jnp.int4).astype(jnp.float32) * 2, (X * 5,)),
    "booleans": (lambda x: jnp.where((x > 0) & ~(x > 0.5), x, -x).any(), (X,)),
    "zero size": (lambda x: jnp.concatenate([x[:0] * 2.0, x]).sum(0), (X,)),
    "python scalar": (lambda x, s: x * s, (X, 2.5)),
    "weak results": (lambda s: (s + 1, s * 2.0), (3,)),
    "numpy argument": (lambda x: x + 1, (np.arange(6).reshape(2, 3),)),
    "aliases": (aliased, (X, X + 1)),
    "iota": (lambda x: x + jnp.arange(12.0).reshape(3, 4) + jnp.eye(3, 4), (X,)),
    "grad of scan and remat": (jax.value_and_grad(scan_remat_loss), (jnp.stack([W] * 3), X)),
    "grad of remat with a policy": (jax.grad(policy_loss), (W, X)),
    "grad of custom_vjp": (jax.grad(lambda x: clipped(x * 2.0).sum()), (X,)),
    "grad of custom_jvp": (jax.grad(lambda x: ramp(x).sum()), (X,)),
    "jvp of scan": (lambda x: jax.jvp(lambda x: cond_in_scan(x)[0], (x,), (x,)), (X,)),
    "hessian": (jax.hessian(lambda x: jnp.sin(x @ W).sum()), (X[0],)),
    "dropout": (dropout, (KEY, X)),
    "dropout, raw key": (dropout, (jax.random.PRNGKey(7), X)),
    "many draws": (many_draws, (KEY,)),
    "many draws, raw key": (lambda key: many_draws(key)[0], (jax.random.PRNGKey(1),)),
    "keys carried by a loop": (random_walk, (KEY, X)),
    "vmapped keys": (jax.vmap(lambda k: jax.random.normal(k, (2,))), (jax.random.split(KEY, 3),)),
    "while": (newton, (1.0,)),
    "while, vmapped": (jax.vmap(newton), (jnp.array([1.0, 3.0, 0.5]),)),
    "fori": (lambda n, x: lax.fori_loop(0, n, lambda i, c: c * 0.5 + i, x), (4, X)),
    "cond": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), (X,)),
    "cond, other branch": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), (-X,)),
    "cond in scan": (cond_in_scan, (X,)),
    "scan in while": (scan_in_while, (X,)),
    "map and associative scan": (
        lambda x: (lax.map(jnp.sum, x), lax.associative_scan(jnp.add, x)),
        (X,),
    ),
    "adamw step": (
        adamw_step,
        ({"w": W, "b": W[0][None]}, optax.adamw(1e-2).init({"w": W, "b": W[0][None]}), X),
    ),
    "convolution step": (
        cnn_step,
        (
            Cnn().init(KEY, jnp.ones((2, 6, 6, 2)), True),
            jnp.linspace(0.0, 1.0, 144).reshape(2, 6, 6, 2),
        ),
    ),
    "shard_map": (on_shards, (jnp.arange(16.0),)),
    "donated inner jit": (
        lambda x: jax.jit(lambda y: y * 2.0, donate_argnums=0)(x * 1.0),
        (X,),
    ),
}


def same(got, want, rtol=2e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert a.weak_type == b.weak_type
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=2e-7
        )


@pytest.mark.parametrize("case", CASES)
def test_numbers(case, emitted):
    function, args = CASES[case]
    program = trace(function, args)
    same(jax.jit(emitted(program))(*args), jax.jit(function)(*args))


@pytest.mark.parametrize("case", ["grad of scan and remat", "cond in scan", "adamw step"])
def test_a_program_of_an_emitted_program(case, emitted):
    """Emission is itself traceable, and nothing grows on the way."""
    function, args = CASES[case]
    once = trace(function, args)
    twice = trace(emitted(once), args)
    assert len(twice.ops) <= len(once.ops)
    same(jax.jit(emitted(twice))(*args), jax.jit(function)(*args))


def test_keyword_arguments(emitted):
    def function(x, *, scale, shift=0.0):
        return x * scale["s"] + shift

    kwargs = {"scale": {"s": 2.0}, "shift": 1.0}
    program = trace(function, (X,), kwargs)
    same(jax.jit(emitted(program))(X, **kwargs), jax.jit(function)(X, **kwargs))


def layered(x):
    def body(c, w):
        return clipped(ramp(c @ w)) + jax.nn.relu(c), None

    y = lax.scan(body, x, jnp.stack([W, W.T]))[0]
    y = jax.checkpoint(lambda y: jax.nn.silu(ramp(y)))(y)
    return lax.cond(y.sum() > 0, clipped, lambda y: ramp(y) * 2.0, y)


@pytest.mark.parametrize(
    "function", [clipped, ramp, layered, jax.nn.relu, jax.nn.silu, jax.nn.gelu]
)
def test_gradients_of_a_program_that_keeps_custom_derivatives(function, emitted):
    def loss(f, x):
        return (f(x) ** 2).sum()

    again = emitted(trace(function, (X,), keep_custom=True))
    same(jax.jit(jax.grad(partial(loss, again)))(X), jax.jit(jax.grad(partial(loss, function)))(X))
    # eager differentiation takes another path through JAX than a jitted one
    same(jax.grad(partial(loss, again))(X), jax.grad(partial(loss, function))(X))


def test_inlining_would_lose_the_gradient(emitted):
    """Why programs that may still be differentiated keep the calls."""
    again = emitted(trace(clipped, (X,)))
    lost, right = (jax.grad(lambda x, f=f: f(x).sum())(X) for f in (again, clipped))
    assert np.abs(lost - right).max() > 0.1


@pytest.mark.parametrize("keep_custom", [False, True])
@pytest.mark.parametrize("function", [layered, scan_in_while, lambda x: dropout(KEY, x)])
def test_vmap(function, keep_custom, emitted):
    batch = jnp.stack([X, X + 0.5, -X])
    again = emitted(trace(function, (X,), keep_custom=keep_custom))
    same(jax.jit(jax.vmap(again))(batch), jax.jit(jax.vmap(function))(batch))


def test_vmap_with_a_rule_of_its_own(emitted):
    @jax.custom_batching.custom_vmap
    def function(x):
        return jnp.sin(x)

    function.def_vmap(lambda size, batched, x: (jnp.cos(x), batched[0]))
    again = emitted(trace(function, (X[0],), keep_custom=True))
    same(again(X[0]), jnp.sin(X[0]))
    same(jax.vmap(again)(X), jnp.cos(X))


def test_without_jit(emitted):
    for case in ("cond in scan", "adamw step", "while"):
        function, args = CASES[case]
        same(emitted(trace(function, args))(*args), jax.jit(function)(*args), rtol=1e-5)


def test_disable_jit(emitted):
    function, args = CASES["grad of scan and remat"]
    want = jax.jit(function)(*args)
    again = emitted(trace(function, args))
    with jax.disable_jit():
        got = again(*args)
    same(got, want, rtol=1e-5)
