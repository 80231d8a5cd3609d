"""Sharding constraints in the user's program: pins on its values, kept by the plan's mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import autoshard

W = jax.random.normal(jax.random.key(0), (3, 16, 16)) / 4
X = jax.random.normal(jax.random.key(1), (16, 16))


def mesh_of(*sizes, names=("data", "model"), kind=AxisType.Auto):
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def make_step(constrain, scan=True):
    def step(ws, x):
        def loss(ws):
            def layer(h, w):
                return constrain(jnp.tanh(h @ w)), None

            if scan:
                h, _ = jax.lax.scan(layer, x, ws)
            else:
                h = x
                for w in ws:
                    h, _ = layer(h, w)
            return jnp.mean(h**2)

        value, grads = jax.value_and_grad(loss)(ws)
        return ws - 0.1 * grads, value

    return step


def with_spec(spec):
    return lambda h: jax.lax.with_sharding_constraint(h, spec)


def on(mesh, spec):
    return with_spec(NamedSharding(mesh, spec))


def check(step, strategy, mesh="data=2,model=4"):
    planned = autoshard.parallelize(step, mesh=mesh, strategy=strategy)
    found, wanted = planned(W, X), jax.jit(make_step(lambda h: h))(W, X)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    return planned


@pytest.mark.parametrize(
    ("strategy", "scan"), [("dp@data", False), ("zero3", True), ("propagate", True)]
)
def test_a_spec_means_the_mesh_of_the_plan(strategy, scan):
    step = make_step(with_spec(P("data", "model")), scan)
    planned = check(step, strategy)
    lowered = planned.lower(W, X).as_text()
    kept = [line for line in lowered.splitlines() if "sharding_constraint" in line]
    inside = '[{"data"}, {"model"}]'
    assert any(inside in line and "tensor<16x16xf32>" in line for line in kept)


def test_the_flow_spreads_from_it():
    planned = check(make_step(with_spec(P("data", "model"))), "propagate")
    assert str(planned.last_plan.leaf("x").spec) == "P(data, model)"
    assert "with_sharding_constraint at" in planned.last_plan.leaf("x").reason
    assert str(planned.last_plan.leaf("ws").spec) == "P(-, -, model)"


def test_unconstrained_dimensions_are_open():
    closed = check(make_step(with_spec(P(None, "model"))), "dp@data")
    opened = check(make_step(with_spec(P(P.UNCONSTRAINED, "model"))), "dp@data")

    def spec(planned):
        program, plan = planned._memory.latest.program, planned.last_plan
        op = next(op for op in program.ops if op.primitive == "sharding_constraint")
        return str(plan.constraints[op.id, "result", 0][-1])

    assert spec(closed) == "P(-, model)"
    assert spec(opened) == "P(data, model)"


def test_a_mesh_of_the_user_with_the_same_axes():
    """Its order of devices is not ours: the constraint is said again for the plan's mesh."""
    turned = jax.sharding.Mesh(
        np.asarray(jax.devices())[::-1].reshape(2, 4),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
    )
    check(make_step(on(turned, P("data", "model"))), "zero3")
    check(make_step(on(mesh_of(2, 4), P("data"))), "dp@data")
    check(make_step(on(mesh_of(2, 4).abstract_mesh, P("data"))), "dp@data")


def test_under_a_mesh_of_the_user_s():
    planned = autoshard.parallelize(
        make_step(with_spec(P("data", "model"))), mesh="data=2,model=4", strategy="zero3"
    )
    with jax.set_mesh(mesh_of(2, 4)):
        found = planned(W, X)
    np.testing.assert_allclose(found[1], jax.jit(make_step(lambda h: h))(W, X)[1], rtol=1e-5)


def test_a_vmapped_constraint_leaves_the_new_dimension_open():
    def forward(ws, x):
        per_row = jax.vmap(with_spec(P("model")))
        return jnp.tanh(per_row(x @ ws[0])).sum()

    planned = autoshard.parallelize(forward, mesh="data=2,model=4", strategy="dp@data")
    np.testing.assert_allclose(planned(W, X), forward_alone(W, X), rtol=1e-5)
    assert str(planned.last_plan.leaf("x").spec) == "P(data, -)"


def forward_alone(ws, x):
    return jnp.tanh(x @ ws[0]).sum()


def test_a_jit_with_shardings_inside():
    mesh = mesh_of(2, 4)
    inner = jax.jit(lambda x: x * 2.0, out_shardings=NamedSharding(mesh, P(None, "model")))
    planned = autoshard.parallelize(
        lambda x: inner(x) + 1.0, mesh="data=2,model=4", strategy="propagate"
    )
    np.testing.assert_array_equal(planned(X), X * 2.0 + 1.0)
    assert str(planned.last_plan.leaf("x").spec) == "P(-, model)"
