"""Convolutions in groups, whose number no axis divides: the partitioner must not cut them."""

import jax
import jax.numpy as jnp
import pytest


def make(groups: int, channels: int):
    def step(params, batch):
        def loss(params):
            x = batch["x"]
            for name in ("first", "second"):
                x = jax.lax.conv_general_dilated(
                    x,
                    params[name],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=groups,
                )
                x = jnp.tanh(x) @ params["mix"]
            return jnp.mean(x**2)

        gradients = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), jnp.zeros(())

    keys = jax.random.split(jax.random.key(0), 4)
    shape = (3, 3, channels // groups, channels)
    params = {
        "first": jax.random.normal(keys[0], shape),
        "mix": jax.random.normal(keys[1], (channels, channels)) / 4,
        "second": jax.random.normal(keys[2], shape),
    }
    return step, (params, {"x": jax.random.normal(keys[3], (8, 8, 8, channels))})


@pytest.mark.parametrize("strategy", ["dp+tensor", "zero3+tensor", "zero2+megatron"])
@pytest.mark.parametrize(("groups", "channels"), [(3, 24), (4, 24), (24, 24)])
def test_grouped_convolutions(compile_plan, tree_error, strategy, groups, channels):
    step, args = make(groups, channels)
    planned = compile_plan(step, args, strategy, "data=2,model=4")
    after, _ = planned(*args)
    wanted, _ = jax.jit(step)(*args)
    assert tree_error(after, wanted) < 1e-5
