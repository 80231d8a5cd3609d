"""Every op knows where it comes from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from autoshard.tracing import Program, trace

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="up")(x)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block(name="first")(x)


def ops(program: Program, primitive: str) -> list:
    return [op for op in program.ops if op.primitive == primitive]


def test_source_lines():
    def function(x):
        y = jnp.sin(x)  # the line of sin
        return lax.scan(lambda c, _: (jnp.cos(c), None), y, None, length=2)[0]  # and of cos

    program = trace(jax.jit(function), (X,))
    first = function.__code__.co_firstlineno
    for primitive, line in (("sin", first + 1), ("cos", first + 2)):
        (op,) = ops(program, primitive)
        assert f"test_names.py:{line}" in op.source, op.source
    assert "function" in ops(program, "sin")[0].source


def test_borders_have_no_source():
    program = trace(lambda x: x, (X,))
    assert {op.source for op in program.ops} == {""}
    assert {op.name_stack for op in program.ops} == {""}


def test_scopes_of_inlined_calls():
    @jax.jit
    def inner(x):
        with jax.named_scope("deep"):
            return jnp.sin(x)

    def function(x):
        with jax.named_scope("outer"):
            return inner(x)

    (op,) = ops(trace(function, (X,)), "sin")
    assert op.name_stack == "outer/deep"


def test_module_paths_of_forward_and_backward():
    net: Any = Net()
    params = jax.eval_shape(net.init, jax.random.key(0), X)

    def step(params, x):
        return jax.grad(lambda p: jnp.sum(net.apply(p, x)))(params)

    # The input is not differentiated: the only product left is the kernel's gradient.
    (backward,) = ops(trace(step, (params, X)), "dot_general")
    assert "first/up" in backward.name_stack
    assert "transpose" in backward.name_stack
    (forward,) = ops(trace(net.apply, (params, X)), "dot_general")
    assert "first/up" in forward.name_stack


def test_names_reach_the_compiler(emitted):
    def function(x):
        with jax.named_scope("attention"):
            x = jax.jit(lambda x: jnp.tanh(x))(x)

        def body(c, _):
            with jax.named_scope("layer"):
                return jnp.sin(c), None

        with jax.named_scope("stack"):
            return lax.scan(body, x, None, length=2)[0]

    program = trace(function, (X,))
    text = jax.jit(emitted(program)).lower(X).as_text(debug_info=True)
    locations = [line for line in text.splitlines() if line.startswith("#loc")]
    assert any("attention" in line and "tanh" in line for line in locations)
    assert any("layer" in line and "sin" in line for line in locations)
    assert any("stack/while" in line for line in locations)
    assert any("test_names.py" in line for line in locations)


def test_the_matmul_precision_in_force_is_kept(emitted):
    def function(x):
        with jax.default_matmul_precision("float32"):
            y = x @ x.T
        return y, x @ x.T

    program = trace(function, (X,))
    first, second = (op.params["precision"] for op in ops(program, "dot_general"))
    assert first != second
    text = jax.jit(emitted(program)).lower(X).as_text()
    assert text.count("HIGHEST, HIGHEST") == 1
