"""Bytes per device of the state of training: the closed forms of ZeRO, table 1.

Rajbhandari et al. 2020, section 5, for float32 parameters and gradients of P bytes and the two
moments of Adam on N devices. The gradients are made visible: the step returns them.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

N = 8
TX = optax.adam(1e-3)

CLOSED_FORMS = {
    "dp": lambda p: 4 * p,
    "zero1": lambda p: 2 * p + 2 * p / N,
    "zero2": lambda p: p + 3 * p / N,
    "zero3": lambda p: 4 * p / N,
}


def create():
    params = {
        f"layer_{i}": {"kernel": jnp.zeros((256, 256)), "bias": jnp.zeros((256,))} for i in range(4)
    }
    return params, TX.init(params)


def step(state, x):
    params, opt_state = state

    def loss(params):
        y = x
        for layer in params.values():
            y = jnp.tanh(y @ layer["kernel"] + layer["bias"][None])
        return jnp.mean((y - x) ** 2)

    value, gradients = jax.value_and_grad(loss)(params)
    updates, opt_state = TX.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value, gradients


@pytest.mark.parametrize("strategy", CLOSED_FORMS)
def test_closed_forms(compile_plan, strategy):
    state = jax.eval_shape(create)
    x = jax.ShapeDtypeStruct((16, 256), jnp.float32)
    planned = compile_plan(step, (state, x), strategy, "x=8", donate=True)
    found = planned.compiled.memory_analysis()
    shared = found.alias_size_in_bytes
    data = 16 * 256 * 4 // N
    total = found.argument_size_in_bytes + found.output_size_in_bytes - shared - data
    parameters = sum(leaf.size * 4 for leaf in jax.tree.leaves(state[0]))
    assert total == pytest.approx(CLOSED_FORMS[strategy](parameters), rel=0.02)


@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_gradients_summed_over_microbatches(plan_of, strategy):
    """Stage 1 keeps the sum whole on every device, stage 2 a part of it."""

    def accumulate(state, xs):
        params, opt_state = state

        def loss(params, x):
            y = x
            for layer in params.values():
                y = jnp.tanh(y @ layer["kernel"] + layer["bias"][None])
            return jnp.mean((y - x) ** 2)

        def one(total, x):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(one, zeros, xs)
        updates, opt_state = TX.update(total, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), jnp.sum(xs)

    state = jax.eval_shape(create)
    xs = jax.ShapeDtypeStruct((2, 16, 256), jnp.float32)
    plan = plan_of(accumulate, (state, xs), strategy, "x=8")
    program = plan.origin
    carries = [
        op
        for op in program.ops
        if op.primitive == "region_tie"
        and op.params["kind"] == "carry"
        and program.values[op.results[0]].shape == (256, 256)
    ]
    assert len(carries) == 4
    for op in carries:
        (spec,) = plan.constraints[(op.id, "result", 0)]
        assert spec.is_replicated == (strategy == "zero1")
