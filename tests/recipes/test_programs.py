"""Programs that are no plain train step: planned without complaint, and right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoshard.errors import BatchError, StateStructureError

STRATEGIES = ("dp", "zero3", "tensor", "zero3+tensor")


def mesh_of(strategy):
    return "data=2,model=4" if "+" in strategy else "x=8"


@pytest.fixture
def check(compile_plan, tree_error):
    """Run a function under a strategy and on one device; returns the plan."""

    def checked(function, args, strategy, mesh=None, tolerance=1e-5):
        planned = compile_plan(function, args, strategy, mesh or mesh_of(strategy))
        assert tree_error(planned(*args), jax.jit(function)(*args)) < tolerance
        return planned

    return checked


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def descend(loss):
    """A step of gradient descent on a loss of `(params, batch)`."""

    def step(params, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return step


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_evaluation_and_a_forward_pass(check, strategy):
    params = {"up": normal(0, 16, 64), "down": normal(1, 64, 16)}

    def forward(params, x):
        return jnp.tanh(x @ params["up"]) @ params["down"]

    planned = check(forward, (params, normal(2, 32, 16)), strategy)
    assert planned.spec("x") == {"tensor": "P(-, -)", "zero3+tensor": "P(data, -)"}.get(
        strategy, "P(x, -)"
    )


@pytest.mark.parametrize("strategy", ["dp", "zero3"])
def test_a_function_without_data_is_refused(plan_of, strategy):
    with pytest.raises(BatchError, match="takes no data that could be cut over x = 8"):
        plan_of(
            lambda p: jax.tree.map(lambda x: x * 0.9, p), ({"w": normal(0, 8, 8)},), strategy, "x=8"
        )


def test_scalars_alone(plan_of, check):
    with pytest.raises(BatchError):
        plan_of(lambda a, b: (a + b, a * b), (1.0, 2.0), "dp", "x=8")
    check(lambda a, b: (a + b, a * b), (jnp.float32(1.0), jnp.float32(2.0)), "tensor")


@pytest.mark.parametrize("strategy", ["dp", "zero3", "zero3+tensor"])
def test_a_batch_that_no_axis_divides_is_refused(plan_of, strategy):
    step = descend(lambda p, b: jnp.mean((b @ p["w"]) ** 2))
    with pytest.raises(BatchError) as caught:
        plan_of(step, ({"w": normal(0, 16, 16)}, normal(1, 7, 16)), strategy, mesh_of(strategy))
    assert "batch [7, 16]" in str(caught.value)
    size = 2 if "+" in strategy else 8
    assert f"multiple of {size}" in str(caught.value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tied_embeddings_and_a_vocabulary_that_does_not_divide(check, strategy):
    def loss(params, tokens):
        x = jnp.tanh(params["table"][tokens[:, :-1]] @ params["w"])
        logits = x @ params["table"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    params = {"table": normal(0, 257, 64), "w": normal(1, 64, 64) / 8}
    tokens = jax.random.randint(jax.random.key(2), (16, 9), 0, 257)
    planned = check(descend(loss), (params, tokens), strategy)
    if strategy == "tensor":
        assert planned.spec("table") == "P(-, x)"  # columns, for the rows do not divide
        assert "its 257 rows do not divide by 8" in planned.plan.leaf("table").reason
    if strategy == "zero3":
        assert planned.spec("table") == "P(-, x)"


@pytest.mark.parametrize("strategy", ["tensor", "zero3+tensor"])
def test_a_head_whose_vocabulary_does_not_divide_says_so(check, strategy):
    def loss(params, tokens):
        x = jnp.tanh(params["table"][tokens[:, :-1]] @ params["w"])
        logits = x @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    params = {"table": normal(0, 257, 64), "w": normal(1, 64, 64) / 8, "head": normal(2, 64, 257)}
    tokens = jax.random.randint(jax.random.key(2), (16, 9), 0, 257)
    planned = check(descend(loss), (params, tokens), strategy)
    assert not {a for d in planned.plan.leaf("head").spec.dims[1:] for a in d}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_parameter_used_twice(check, strategy):
    def loss(params, x):
        y = jnp.tanh(x @ params["w"])
        return jnp.mean(jnp.tanh(y @ params["w"]) ** 2)

    check(descend(loss), ({"w": normal(0, 64, 64) / 8}, normal(1, 16, 64)), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_integer_state(check, strategy):
    def step(state, x):
        value, g = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(state["w"])
        new = {"w": state["w"] - g, "n": state["n"] + 1, "seen": state["seen"] + (x.sum(0) > 0)}
        return new, value

    state = {"w": normal(0, 16, 16), "n": jnp.int32(3), "seen": jnp.zeros(16, jnp.int32)}
    check(step, (state, normal(1, 32, 16)), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_microbatches_in_a_scan(check, strategy):
    """The batch is the second dimension of what the loop runs over."""

    def step(params, batch):
        def one(total, x):
            value, g = jax.value_and_grad(
                lambda p: jnp.mean((jnp.tanh(x @ p["up"]) @ p["down"]) ** 2)
            )(params)
            return jax.tree.map(jnp.add, total, (value, g)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        (value, grads), _ = jax.lax.scan(one, zero, batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"up": normal(0, 16, 64) / 4, "down": normal(1, 64, 16) / 8}
    planned = check(step, (params, normal(2, 4, 16, 16)), strategy)
    if strategy == "dp":
        assert planned.spec("batch") == "P(-, x, -)"
    if strategy == "zero3":
        assert planned.spec("up") == "P(-, x)"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_that_is_reshaped_to_microbatches_inside(check, strategy):
    def step(params, batch):
        micro = batch.reshape(2, 16, 16)

        def one(total, x):
            value, g = jax.value_and_grad(lambda p: jnp.mean((x @ p["w"]) ** 2))(params)
            return jax.tree.map(jnp.add, total, (value, g)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        (value, grads), _ = jax.lax.scan(one, zero, micro)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    check(step, ({"w": normal(0, 16, 64) / 4}, normal(2, 32, 16)), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_that_is_flattened_inside(check, strategy):
    def loss(params, batch):
        x = batch.reshape(-1, 16)
        return jnp.mean((x @ params["w"]).reshape(32, -1) ** 2)

    check(descend(loss), ({"w": normal(0, 16, 64)}, normal(1, 32, 4, 16)), strategy)


@pytest.mark.parametrize("strategy", ["zero3", "zero3+tensor"])
def test_weights_are_cast_before_they_are_gathered(check, strategy):
    """Half the bytes travel: float32 master weights, bfloat16 computation."""

    def loss(params, x):
        half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        y = jnp.tanh(x.astype(jnp.bfloat16) @ half["up"])
        return jnp.mean((y @ half["down"]).astype(jnp.float32) ** 2)

    params = {"up": normal(0, 64, 256) / 8, "down": normal(1, 256, 64) / 16}
    planned = check(descend(loss), (params, normal(2, 32, 64)), strategy, tolerance=2e-2)
    gathers = [c for c in planned.plan.constraints if c[1] == "operand"]
    casts = {op.id for op in planned.program.ops if op.primitive == "convert_element_type"}
    assert gathers
    values = planned.program.values
    weights = [
        planned.program.ops[op].operands[index]
        for op, _, index in gathers
        if planned.program.ops[op].primitive == "dot_general"
    ]
    gathered = [values[v] for v in weights if values[v].shape in ((64, 256), (256, 64))]
    assert gathered
    assert all(v.producer in casts and v.dtype == jnp.bfloat16 for v in gathered)


@pytest.mark.parametrize(("mesh", "cut"), [("x=8", False), ("a=2,x=4", True)])
def test_key_and_value_heads_that_do_not_divide(compile_plan, mesh, cut):
    """Four key heads on eight devices stay whole; the plan says so, and the numbers are right."""
    from autoshard import models

    spec = models.get("llama-tiny", scan_layers=False, layers=1)
    params = jax.jit(spec.init)(jax.random.key(0))["params"]
    tokens = jax.random.randint(jax.random.key(1), (8, 17), 0, 256)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    strategy = "tensor@x"
    step = descend(spec.loss)
    planned = compile_plan(step, (params, batch), strategy, mesh)
    (after, value), (alone, alone_value) = planned(params, batch), jax.jit(step)(params, batch)
    np.testing.assert_allclose(value, alone_value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    key = planned.spec("params/layers_0/attention/key/kernel")
    notes = "\n".join(planned.plan.notes)
    assert (key == "P(-, x, -)") == cut
    said = "attention/key/kernel is not cut by column over x: its output dimension (4) does not"
    assert (said in notes) == (not cut)
    assert planned.spec("params/layers_0/attention/query/kernel") == "P(-, x, -)"


def test_axes_that_no_term_uses_are_named(plan_of):
    step = descend(lambda p, b: jnp.mean((b @ p["w"]) ** 2))
    plan = plan_of(step, ({"w": normal(0, 16, 16)}, normal(1, 16, 16)), "dp@data", "data=2,model=4")
    (note,) = plan.notes
    assert "'model'" in note
    assert "4 devices do the same work" in note


def test_what_cannot_be_cut_is_named(plan_of):
    step = descend(lambda p, b: jnp.mean((b @ p["w"] + p["odd"][None]) ** 2))
    params = {"w": normal(0, 16, 5), "odd": normal(1, 5)}
    plan = plan_of(step, (params, normal(2, 16, 16)), "zero3", "x=8")
    (note,) = plan.notes
    assert note == (
        "stored whole, for x = 8 divides none of their free dimensions: params/odd [5] (20 B), "
        "20 B on every device; ways out: pad dimension 0 of params/odd from 5 to 8, or give the "
        "term fewer devices than x = 8"
    )


def test_data_that_cannot_be_cut_is_named(plan_of):
    step = descend(lambda p, b: jnp.mean((b["x"] @ p["w"]) ** 2) + jnp.mean(b["extra"] @ p["w"]))
    batch = {"x": normal(1, 16, 8), "extra": normal(2, 6, 8)}
    plan = plan_of(step, ({"w": normal(0, 8, 8)}, batch), "dp", "x=8")
    (note,) = plan.notes
    assert (
        "batch/extra [6, 8] (192 B)" in note
        and "pad dimension 0 of batch/extra from 6 to 8" in note
    )
    assert str(plan.leaf("batch/extra").spec) == "P(-, -)"


def test_positions_beside_a_batch(check):
    """An argument without the batch dimension does no harm."""

    def loss(params, batch):
        x = params["table"][batch["tokens"]] + params["place"][batch["positions"]][None]
        return jnp.mean((x @ params["w"]) ** 2)

    params = {"table": normal(0, 64, 16), "place": normal(1, 32, 16), "w": normal(2, 16, 16)}
    tokens = jax.random.randint(jax.random.key(3), (8, 16), 0, 64)
    for strategy in ("dp", "zero3+tensor"):
        check(descend(loss), (params, {"tokens": tokens, "positions": jnp.arange(16)}), strategy)


def test_a_state_that_changes_its_type_is_refused(plan_of):
    def step(params, opt_state, batch):
        g = jax.grad(lambda p: jnp.mean((batch @ p["w"] + p["b"][None] + p["c"][None]) ** 2))(
            params
        )
        new = jax.tree.map(lambda p, g: p - g, params, g)
        return {**new, "b": new["b"].astype(jnp.float16)}, 0.0

    params = {"w": normal(0, 16, 16), "b": normal(1, 16), "c": normal(2, 16)}
    with pytest.raises(StateStructureError, match=r"takes float32\[16\], returns float16"):
        plan_of(step, (params, {}, normal(3, 16, 16)), "dp", "x=8")
