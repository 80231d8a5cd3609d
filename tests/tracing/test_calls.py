"""Which calls disappear, which stay, and which are opaque."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from autoshard.tracing import TIE, Program, trace

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def names(program: Program) -> list[str]:
    """Primitives of the outermost block."""
    return [program.ops[i].primitive for i in program.body.ops]


def all_names(program: Program) -> Counter[str]:
    return Counter(op.primitive for op in program.ops)


@jax.custom_jvp
def saturate(x):
    return jnp.sin(x) * 2.0


saturate.defjvp(lambda p, t: (saturate(p[0]), 3.0 * t[0]))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, ct: (ct * 5.0,))


def test_nested_jits_disappear():
    @jax.jit
    def outer(x):
        return jax.jit(jax.jit(jnp.sin))(x) + 1.0

    assert names(trace(lambda x: jax.jit(outer)(x) * 2.0, (X,))) == ["sin", "add", "mul"]
    assert names(trace(outer, (X,))) == ["sin", "add"]


def test_closed_call_disappears():
    """JAX wraps what a custom_vjp call's own rules compute in such calls."""
    loop = jax.checkpoint(
        lambda x: jax.lax.scan(lambda c, _: (straight_through(c), None), x, None, length=2)[0]
    )
    gradient = jax.grad(lambda x: loop(x).sum())
    calls = {"closed_call", "eval_jaxpr"}  # of jax 0.10, of jax 0.11
    assert any(f"{call}[" in str(jax.make_jaxpr(gradient)(X)) for call in calls)
    found = all_names(trace(gradient, (X,)))
    assert calls.isdisjoint(found)
    assert found["mul"] == 1  # straight_through's own derivative


@pytest.mark.parametrize(
    ("function", "inner", "kept"),
    [
        (saturate, ["sin", "mul"], "custom_jvp_call"),
        (straight_through, ["round"], "custom_vjp_call"),
        (jax.nn.relu, ["max"], "custom_jvp_call"),
    ],
)
def test_custom_derivatives_are_inlined_or_kept(function, inner, kept):
    assert names(trace(function, (X,))) == inner
    program = trace(function, (X,), keep_custom=True)
    (op,) = (program.ops[i] for i in program.body.ops)
    assert op.primitive == kept
    assert op.atomic
    assert op.structured
    # It is looked into, so that what is inside can be planned and costed.
    assert [program.ops[i].primitive for i in op.blocks[0].ops] == inner
    assert {program.ops[t].params["kind"] for t in op.ties} == {"argument", "result"}


def test_custom_batching_is_inlined_or_kept():
    @jax.custom_batching.custom_vmap
    def function(x):
        return jnp.sin(x)

    function.def_vmap(lambda size, batched, x: (jnp.cos(x), batched[0]))
    assert names(trace(function, (X,))) == ["sin"]
    assert names(trace(function, (X,), keep_custom=True)) == ["custom_vmap_call"]
    # vmap has happened when it is traced: what the rule made is there
    assert names(trace(jax.vmap(function), (X,))) == ["cos"]


def test_remat_stays_a_region():
    program = trace(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), (X,))
    (op,) = (program.ops[i] for i in program.body.ops)
    assert op.structured
    assert not op.atomic
    assert [program.ops[i].primitive for i in op.blocks[0].ops] == ["sin", "sin"]
    # In the gradient there is one, holding the recomputed forward pass and the backward pass.
    program = trace(
        jax.grad(lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))(x).sum()), (X,)
    )
    regions = [op for op in program.ops if op.structured]
    assert [op.params["differentiated"] for op in regions] == [True]
    inside = Counter(program.ops[i].primitive for i in regions[0].blocks[0].ops)
    assert inside["cos"] == 2
    assert inside["sin"] >= 1


def test_shard_map_is_one_op():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    @partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P())
    def total(x):
        return jax.lax.psum(x.sum(), "data")

    program = trace(lambda x: total(x) + 1.0, (jax.ShapeDtypeStruct((16,), jnp.float32),))
    assert names(program) == ["shard_map", "add"]
    assert not program.ops[program.body.ops[0]].structured


def test_a_kernel_is_one_op():
    def double(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2.0

    program = trace(pl.pallas_call(double, out_shape=X, interpret=True), (X,))
    assert names(program) == ["pallas_call"]
    assert program.results[0].path == "result"


def test_a_linear_solve_is_one_op():
    def solve(a, b):
        matvec = partial(jnp.matmul, a)
        return jax.lax.custom_linear_solve(matvec, b, lambda _, y: jnp.linalg.inv(a) @ y)

    a, b = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    program = trace(solve, (a, b))
    assert names(program)[-1] == "custom_linear_solve"
    assert TIE not in all_names(program)


def test_an_unknown_primitive_is_one_op():
    from jax.extend.core import Primitive

    unheard_of = Primitive("unheard_of")
    unheard_of.def_abstract_eval(lambda x: x)
    program = trace(lambda x: unheard_of.bind(jnp.sin(x)), (X,))
    assert names(program) == ["sin", "unheard_of"]
    assert program.ops[program.body.ops[1]].eqn.primitive is unheard_of


def test_shardings_of_an_inlined_jit_become_constraints(emitted):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, columns = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "data"))

    def function(x):
        inner = jax.jit(lambda x, y: (jnp.sin(x), y), in_shardings=(rows, None))
        a, b = inner(x, x)
        return jax.jit(jnp.cos, out_shardings=columns)(a) + b

    x = np.ones((8, 16), np.float32)
    program = trace(function, (x,))
    assert names(program) == [
        "sharding_constraint",
        "sin",
        "cos",
        "sharding_constraint",
        "add",
    ]
    pins = [op.params["sharding"] for op in program.ops if op.primitive == "sharding_constraint"]
    assert [pin.spec for pin in pins] == [rows.spec, columns.spec]
    before, sine, cosine, after, total = (program.ops[i] for i in program.body.ops)
    assert sine.operands == before.results
    assert after.operands == cosine.results
    assert total.operands[0] == after.results[0]
    np.testing.assert_array_equal(jax.jit(emitted(program))(x), jax.jit(function)(x))


def test_dead_code_is_gone():
    def function(x):
        jnp.tan(x)
        jax.lax.scan(lambda c, _: (c + 1.0, jnp.cosh(c)), x, None, length=3)
        return jnp.sin(x), jax.jit(lambda x: (jnp.exp(x), jnp.log(x)))(x)[0]

    assert names(trace(function, (X,))) == ["sin", "exp"]


def test_an_unused_argument_keeps_its_place():
    program = trace(lambda a, b: b * 2.0, (X, X))
    assert [leaf.path for leaf in program.arguments] == ["a", "b"]
    assert program.consumers[program.argument_value(program.arguments[0]).id] == ()


def test_text_shows_blocks_and_counts():
    def function(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=3)[0] * 2.0

    text = str(trace(function, (X,)))
    assert "scan(" in text
    assert "  body(" in text
    assert "sin(" in text
    assert "x3" in text
    assert text.splitlines()[-1].endswith("2.0)")
