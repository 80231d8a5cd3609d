"""Planning, lowering and compiling ahead of the first call, from shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autoshard
from autoshard.errors import CompiledArgumentsError, NotPlannedError, PathError


@pytest.fixture
def shapes(create_state, batch):
    return jax.eval_shape(create_state, jax.random.key(0)), jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch
    )


def test_from_shapes(step_function, shapes, create_state, batch, on_one_device, same):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    plan = step.plan(*shapes)
    assert plan.leaf("state/w").spec.axes == ("data", "model")
    lowered = step.lower(*shapes)
    assert lowered.plan is plan
    assert "sharding" in lowered.as_text()
    compiled = lowered.compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    assert "all-gather" in compiled.as_text()
    assert compiled.cost_analysis()["flops"] > 0
    same(compiled(create_state(jax.random.key(0)), batch), on_one_device)


def test_state_of_a_compiled_call_is_its_own(step_function, shapes, create_state, batch):
    """State goes round between the compiled program and the function, donated by both."""
    step = autoshard.parallelize(step_function)
    compiled = step.compile(*shapes)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    for run in (compiled, step, compiled):
        old = state
        state, _ = run(state, batch)
        assert old["w"].is_deleted()


def test_a_compiled_call_refuses_other_arguments(step_function, shapes, create_state, batch_of):
    compiled = autoshard.parallelize(step_function).compile(*shapes)
    state = create_state(jax.random.key(0))
    for other in (batch_of(32), {"x": batch_of()["x"]}):
        with pytest.raises(CompiledArgumentsError):
            compiled(state, other)
    with pytest.raises(CompiledArgumentsError, match="float32"):
        compiled(state, jax.tree.map(lambda x: x.astype(np.float16), batch_of()))


def test_static_arguments_are_left_out(batch):
    def apply(w, power, x):
        return jnp.mean((x @ w) ** power)

    planned = autoshard.parallelize(apply, static_argnames="power", strategy="dp")
    w = jnp.ones((16, 4))
    compiled = planned.compile(w, 2, batch["x"])
    np.testing.assert_allclose(
        float(compiled(w, batch["x"])), float(apply(w, 2, batch["x"])), rtol=1e-5
    )


def test_questions(step_function, loss_function, shapes):
    step = autoshard.parallelize(step_function, mesh="data=2,model=4", strategy="zero3+tensor")
    with pytest.raises(NotPlannedError):
        step.last_plan  # noqa: B018
    with pytest.raises(NotPlannedError):
        step.explain("w")
    step.plan(*shapes)
    assert "dimension 0 over data" in step.explain("state/w")
    assert step.explain("loss").startswith("1/loss: float32[]")
    assert "zero3+tensor on data=2,model=4" in step.explain()
    with pytest.raises(PathError):
        step.explain("nothing")


def test_last_plan_is_the_one_used_last(step_function, create_state, batch_of):
    step = autoshard.parallelize(step_function)
    state = step.init(create_state, jax.random.key(0), step_args=(batch_of(16),))
    for n in (16, 32, 16, 16):
        state, _ = step(state, batch_of(n))
        assert step.last_plan.leaf("batch/x").shape == (n, 16)
