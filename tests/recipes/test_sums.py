"""The type in which the devices' parts of a gradient are added up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.errors import OptionError
from autoshard.lowering import device_mesh, lower_plan
from autoshard.plan import parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace


def step(params, batch):
    """Parameters in float32, computation in bfloat16."""

    def loss(params):
        x = batch["x"].astype(jnp.bfloat16)
        y = jnp.take(params["table"].astype(jnp.bfloat16), batch["ids"], axis=0) + x
        y = jnp.tanh(y @ params["kernel"].astype(jnp.bfloat16))
        return jnp.mean(y.astype(jnp.float32) ** 2)

    gradients = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), jnp.zeros(())


def arguments(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "table": jax.random.normal(keys[0], (32, 16), dtype),
        "kernel": jax.random.normal(keys[1], (16, 16), dtype),
    }
    batch = {"x": jax.random.normal(keys[2], (64, 16)), "ids": jnp.arange(64) % 32}
    return params, batch


def emitted_types(args, strategy, reduce_dtype) -> set[str]:
    """Element types of the reductions, before any backend has its say: CPUs widen bfloat16."""
    program = trace(step, args)
    mesh = parse_mesh("x=8", 8)
    plan = plan_by_recipe(program, mesh, strategy, reduce_dtype=reduce_dtype)
    avals = [program.argument_value(leaf).aval for leaf in program.arguments]
    lowered = lower_plan(program, plan, device_mesh(mesh)).lower(
        *[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    )
    lines = lowered.as_text().splitlines()
    starts = [i for i, line in enumerate(lines) if "all_reduce" in line or "reduce_scatter" in line]
    types = (next(x for x in lines[i:] if ") : (tensor<" in x or "}) : (" in x) for i in starts)
    return {line.rpartition("x")[2].partition(">")[0] for line in types}


@pytest.mark.parametrize("strategy", ["dp", "zero3"])
@pytest.mark.parametrize(
    ("dtype", "reduce_dtype", "wanted"),
    [
        (jnp.float32, None, "f32"),
        (jnp.float32, "bfloat16", "bf16"),
        (jnp.bfloat16, "float32", "f32"),
    ],
)
def test_types(strategy, dtype, reduce_dtype, wanted):
    found = emitted_types(arguments(dtype), strategy, reduce_dtype)
    # What a partitioner combines in the op's own type is not written out.
    assert found == {wanted} or (strategy == "dp" and wanted == "bf16" and not found)


def test_parameters_of_few_bits_are_combined_as_they_are():
    program = trace(step, arguments(jnp.bfloat16))
    plan = plan_by_recipe(program, parse_mesh("x=8", 8), "dp")
    assert all(reduction.dtype is None for reduction in plan.reductions.values())


def test_numbers(compile_plan):
    args = arguments()
    exact = jax.jit(step)(*args)[0]
    found = compile_plan(step, args, "dp", "x=8")(*args)[0]
    for name in exact:
        np.testing.assert_allclose(found[name], exact[name], atol=2e-3)


def test_what_is_no_type():
    with pytest.raises(OptionError, match="reduce_dtype"):
        plan_by_recipe(trace(step, arguments()), parse_mesh("x=8", 8), "dp", reduce_dtype="int8")
