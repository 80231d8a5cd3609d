"""Arrays that a function closes over are arguments of its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from autoshard.tracing import ARGUMENT, Literal, Program, trace

X = jnp.arange(4.0) / 4


def captured(program: Program) -> list[str]:
    return [leaf.path for leaf in program.arguments if leaf.captured]


def literals(program: Program) -> list[Literal]:
    """Array constants that are still in the program."""
    operands = [o for op in program.ops for o in op.operands]
    operands += [o for op in program.ops for block in op.blocks for o in block.outputs]
    return [o for o in operands if isinstance(o, Literal) and np.ndim(o.value) > 0]


@pytest.fixture
def device():
    return jnp.arange(4.0) + 1


@pytest.fixture
def host():
    return np.linspace(1.0, 2.0, 4, dtype=np.float32)


def test_arrays_become_the_last_arguments(device, host, emitted):
    def function(x):
        return x * device + host

    program = trace(function, (X,))
    assert captured(program) == ["captured/0", "captured/1"]
    assert [leaf.path for leaf in program.arguments] == ["x", "captured/0", "captured/1"]
    assert all(program.ops[leaf.op].primitive == ARGUMENT for leaf in program.arguments)
    assert program.body.inputs == tuple(program.argument_value(a).id for a in program.arguments)
    assert program.captured[0] is device
    np.testing.assert_array_equal(program.captured[1], host)
    assert not literals(program)
    np.testing.assert_allclose(emitted(program)(X), function(X))


def test_an_array_captured_in_many_places_is_one_argument(device, host):
    inner = jax.jit(lambda x: x * device + host)

    def function(x):
        x = inner(x) * device * host
        return lax.scan(lambda c, _: (inner(c) + device, None), x, None, length=2)[0] + host

    program = trace(function, (X,))
    assert len(captured(program)) == 2
    assert not literals(program)


def test_equal_arrays_are_not_one():
    a, b = jnp.ones(4), jnp.ones(4)
    assert len(captured(trace(lambda x: x * a + b, (X,)))) == 2
    c, d = np.ones(4, np.float32), np.ones(4, np.float32)
    assert len(captured(trace(lambda x: x * c + d, (X,)))) == 2


def test_views_are_not_their_base():
    base = np.arange(8, dtype=np.float32)
    program = trace(lambda x: x * base[:4] + base[::2] - base[4:], (X,))
    assert len(captured(program)) == 3
    np.testing.assert_array_equal(program.captured[1], base[::2])


def test_a_view_taken_anew_at_every_use_is_one_array():
    table = np.ones((8, 4), np.float32)

    def function(x):
        for _ in range(3):
            x = x * table[:4]
        return x

    assert len(captured(trace(function, (jnp.ones((4, 4)),)))) == 1


def test_scalars_stay_constants():
    scalar, number = jnp.float32(3.0), np.float32(2.0)
    program = trace(jax.jit(lambda x: x * scalar + number), (X,))
    assert not captured(program)


def test_a_large_array_is_not_copied():
    table = np.zeros((1 << 16, 64), np.float32)
    program = trace(lambda i: jnp.take(table, i, axis=0), (jnp.arange(3),))
    (found,) = program.captured
    assert np.shares_memory(found, table)


def test_keys_are_captured_too(emitted):
    keys = jax.random.split(jax.random.key(0), 4)

    def function(x):
        return x + jax.vmap(jax.random.normal)(keys)

    program = trace(function, (X,))
    assert captured(program) == ["captured/0"]
    np.testing.assert_allclose(jax.jit(emitted(program))(X), jax.jit(function)(X), rtol=1e-6)


REGIONS = {
    "scan": lambda f: (
        lambda x: lax.scan(lambda c, y: (f(c) * y, f(c).sum()), x, jnp.ones((3, 4)), reverse=True)
    ),
    "while": lambda f: (
        lambda x: lax.while_loop(
            lambda c: (f(c[1]).sum() < 500.0) & (c[0] < 4), lambda c: (c[0] + 1, f(c[1])), (0, x)
        )
    ),
    "cond": lambda f: lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: f(x), x),
    "cond both": lambda f: lambda x: lax.cond(x[0] > 0, lambda x: f(x) * 2.0, lambda x: f(x), x),
    "remat": lambda f: jax.checkpoint(lambda x: f(x) * 2.0),
    "remat per operand": lambda f: jax.checkpoint(lambda x: f(x) * 2.0, prevent_cse=(True,)),
    "scan in cond in scan": lambda f: (
        lambda x: lax.scan(
            lambda c, _: (
                lax.cond(
                    c[0] > 0,
                    jnp.cos,
                    lambda c: lax.scan(lambda d, _: (f(d), None), c, None, length=2)[0],
                    c,
                ),
                None,
            ),
            x,
            None,
            length=3,
        )
    ),
    "remat in scan": lambda f: (
        lambda x: lax.scan(jax.checkpoint(lambda c, _: (jnp.tanh(f(c)), None)), x, None, length=3)
    ),
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_call_in_a_region(region, device, host, emitted):
    """JAX passes to a region what its body closes over, but not what calls in the body do."""
    function = REGIONS[region](jax.jit(lambda x: x * device + host))
    program = trace(function, (X,))
    assert len(captured(program)) == 2
    assert not literals(program)
    # Each array goes through a tie at every border on its way.
    for leaf in program.arguments:
        value = program.argument_value(leaf).id
        assert all(program.ops[user].parent is None for user, _ in program.consumers[value]), (
            leaf.path
        )
    for got, want in zip(
        jax.tree.leaves(jax.jit(emitted(program))(X)),
        jax.tree.leaves(jax.jit(function)(X)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_another_value_can_be_passed_for_a_captured_array(device, emitted):
    """What the program holds no longer matters once it is an argument."""
    scale = jax.jit(lambda x: x * device)
    program = trace(lambda x: lax.scan(lambda c, _: (scale(c), None), x, None, length=2)[0], (X,))
    object.__setattr__(program, "captured", (device * 3.0,))
    np.testing.assert_allclose(emitted(program)(X), X * (device * 3.0) ** 2)


def test_gradients_through_regions(device, host, emitted):
    inner = jax.jit(lambda x: jnp.sin(x * device) + host)

    def loss(x):
        body = jax.checkpoint(lambda c, _: (inner(c), c.sum()))
        c, ys = lax.scan(body, x, None, length=3)
        return (c * device).sum() + ys.sum()

    program = trace(jax.value_and_grad(loss), (X,))
    assert len(captured(program)) == 2
    assert not literals(program)
    got, want = emitted(program)(X), jax.jit(jax.value_and_grad(loss))(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


@pytest.mark.parametrize("keep_custom", [False, True])
def test_custom_derivatives_that_capture(keep_custom, device, host, emitted):
    scale = jax.jit(lambda x: x * device)

    @jax.custom_vjp
    def function(x):
        return scale(x) + host

    function.defvjp(lambda x: (function(x), None), lambda _, ct: (ct * 7.0,))
    program = trace(function, (X,), keep_custom=keep_custom)
    np.testing.assert_allclose(emitted(program)(X), function(X), rtol=1e-6)
    assert bool(captured(program))
    if keep_custom:
        grad = jax.grad(lambda x: emitted(program)(x).sum())(X)
        np.testing.assert_array_equal(grad, 7.0)
