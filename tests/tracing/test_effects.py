"""Prints and callbacks are kept, in their order, wherever they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

from autoshard.tracing import trace

X = jnp.arange(3.0)


def say(x):
    jax.debug.print("x={x}", x=x, ordered=True)


def prints_in_a_row(x):
    say(x[0])
    y = jax.jit(lambda x: (say(x[1]), x * 2.0)[1])(x)
    jax.debug.print("plain {}", y[2])
    return y


def prints_in_scan(x):
    def body(c, i):
        jax.debug.print("step {i}", i=i, ordered=True)
        return c + 1.0, None

    return lax.scan(body, x, jnp.arange(3))[0]


def prints_in_while(x):
    def body(c):
        jax.debug.print("at {c}", c=c[0])
        return c + 1.0

    return lax.while_loop(lambda c: c[0] < 3.0, body, x)


def prints_in_a_branch(x):
    def loud(x):
        jax.debug.print("loud {x}", x=x[1])
        return x

    return lax.cond(x[1] > 0.0, loud, lambda x: x * 2.0, x)


def prints_without_result(x):
    jax.debug.print("only {x}", x=x[2])


def prints_dead_value(x):
    jax.debug.print("dead {x}", x=jnp.sin(x)[0])
    jnp.cos(x)  # nothing needs it
    return x


def prints_in_the_gradient(x):
    def loss(x):
        jax.debug.print("forward {x}", x=x[1])
        return (x**2).sum()

    return jax.value_and_grad(loss)(x)


PRINTS = [
    prints_in_a_row,
    prints_in_scan,
    prints_in_while,
    prints_in_a_branch,
    prints_without_result,
    prints_dead_value,
    prints_in_the_gradient,
]


@pytest.mark.parametrize("function", PRINTS, ids=lambda f: f.__name__)
def test_the_same_is_printed(function, emitted, capfd):
    def run(f):
        out = jax.block_until_ready(jax.jit(f)(X))
        jax.effects_barrier()
        return out, capfd.readouterr().out

    want, wanted_text = run(function)
    got, text = run(emitted(trace(function, (X,))))
    assert wanted_text
    assert text == wanted_text
    jax.tree.map(np.testing.assert_allclose, got, want)


def test_a_print_is_not_printed_while_tracing(capfd):
    trace(prints_in_a_row, (X,))
    jax.effects_barrier()
    assert capfd.readouterr().out == ""


def test_code_behind_an_effect_stays_and_other_dead_code_goes():
    program = trace(prints_dead_value, (X,))
    primitives = [op.primitive for op in program.ops]
    assert "sin" in primitives
    assert "cos" not in primitives


@pytest.mark.parametrize("ordered", [True, False])
def test_io_callbacks_are_called_once_each(ordered, emitted):
    seen: list[float] = []

    def function(x):
        def body(c, _):
            io_callback(lambda c: seen.append(float(c[0])), None, c, ordered=ordered)
            return c + 1.0, None

        x = lax.scan(body, x, None, length=3)[0]
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        return io_callback(lambda x: (seen.append(-1.0), x * 2)[1], shape, x, ordered=ordered)

    run = jax.jit(emitted(trace(function, (X,))))
    out = run(X)
    jax.effects_barrier()
    assert sorted(seen) == [-1.0, 0.0, 1.0, 2.0]
    if ordered:
        assert seen == [0.0, 1.0, 2.0, -1.0]
    np.testing.assert_array_equal(out, (X + 3) * 2)


def test_an_io_callback_whose_result_is_unused_is_kept(emitted):
    seen: list[int] = []

    def function(x):
        io_callback(lambda: seen.append(1), None)
        return x

    run = jax.jit(emitted(trace(function, (X,))))
    run(X)
    jax.effects_barrier()
    assert seen == [1]


def test_pure_callbacks(emitted):
    def function(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        y = jax.pure_callback(np.sin, shape, x)
        jax.pure_callback(np.cos, shape, x)  # pure and unused
        return lax.fori_loop(0, 2, lambda _, y: jax.pure_callback(np.sin, shape, y), y)

    program = trace(function, (X,))
    assert sum(op.primitive == "pure_callback" for op in program.ops) == 2
    want = np.sin(np.sin(np.sin(np.asarray(X))))
    np.testing.assert_allclose(jax.jit(emitted(program))(X), want, rtol=1e-6)


def test_mutable_arrays(emitted):
    def function(x):
        ref = jax.new_ref(x)
        ref[0] = 5.0
        ref[...] = ref[...] * 2.0
        return jax.freeze(ref)

    program = trace(function, (X,))
    np.testing.assert_array_equal(jax.jit(emitted(program))(X), [10.0, 2.0, 4.0])


def test_mutable_arrays_in_loops(emitted):
    def function(x):
        ref = jax.new_ref(jnp.zeros(()))

        def body(c, y):
            ref[...] = ref[...] + y
            return c + 1.0, None

        c = lax.scan(body, 0.0, x)[0]
        return c, jax.freeze(ref)

    program = trace(function, (X,))
    got, want = jax.jit(emitted(program))(X), jax.jit(function)(X)
    jax.tree.map(np.testing.assert_array_equal, got, want)
