"""Plans of small networks in closed form, and what a plan must not depend on."""

import os
import random
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from autoshard import models


class Mlp(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for layer in range(6):
            x = nn.Dense(self.width, name=f"dense_{layer}")(x)
            x = nn.relu(x) if layer < 5 else x
        return x


class Convolutions(nn.Module):
    channels: int = 256

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.relu(nn.Conv(self.channels, (3, 3))(x))
        return x


class BatchNorms(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Conv(4, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.max_pool(x, (2, 2))
        return x


def training(module, x, y):
    """Mean squared error and Adam."""

    def create(key):
        variables = dict(module.init(key, x))
        params = variables.pop("params")
        return TrainState.create(
            apply_fn=module.apply, params=params, tx=optax.adam(1e-2)
        ), variables

    def step(carried, batch):
        state, variables = carried

        def loss(params):
            out, updated = state.apply_fn(
                {"params": params, **variables}, batch["x"], mutable=list(variables)
            )
            return jnp.mean((out - batch["y"]) ** 2), updated

        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return (state.apply_gradients(grads=grads), dict(updated)), value

    return step, jax.jit(create)(jax.random.key(0)), {"x": x, "y": y}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def matches(planned, step, args, tree_error):
    (state, _), value = planned(*args)
    (alone, _), alone_value = jax.jit(step)(*args)
    np.testing.assert_allclose(value, alone_value, rtol=1e-6)
    assert tree_error(state.opt_state[0].mu, alone.opt_state[0].mu) < 5e-5


def test_dense_layers_alternate_between_column_and_row(compile_plan, tree_error):
    """Three all-reduces forward and two backward: nobody wants the input's gradient."""
    step, state, batch = training(Mlp(256), normal(0, 32, 256), normal(1, 32, 256))
    planned = compile_plan(step, (state, batch), "tensor", "m=8")
    for layer in range(6):
        column = layer % 2 == 0
        path = f"params/dense_{layer}"
        assert planned.spec(f"{path}/kernel") == ("P(-, m)" if column else "P(m, -)")
        assert planned.spec(f"{path}/bias") == ("P(m)" if column else "P(-)")
    assert {c.kind for c in planned.collectives} == {"all-reduce"}
    assert sum(c.n_operands for c in planned.collectives) == 5
    assert sum(c.operand_bytes for c in planned.collectives) == 5 * 32 * 256 * 4
    forward = [c for c in planned.collectives if "transpose" not in c.op_name]
    assert len(forward) == 3
    matches(planned, step, (state, batch), tree_error)


def test_data_parallel_dense_layers(compile_plan, tree_error):
    step, state, batch = training(Mlp(32), normal(0, 256, 32), normal(1, 256, 32))
    planned = compile_plan(step, (state, batch), "dp", "a=2,b=4")
    (only,) = planned.collectives
    assert only.kind == "all-reduce"
    assert only.axes == ("a", "b")
    assert planned.spec("batch/x") == "P((a,b), -)"
    matches(planned, step, (state, batch), tree_error)


def test_sharded_dense_layers(compile_plan, tree_error):
    """No all-reduce; everything with a dimension is in shards."""
    step, state, batch = training(Mlp(32), normal(0, 256, 32), normal(1, 256, 32))
    planned = compile_plan(step, (state, batch), "zero3", "x=8")
    assert {c.kind for c in planned.collectives} == {"all-gather", "reduce-scatter"}
    assert all(not leaf.spec.is_replicated for leaf in planned.plan.state if leaf.shape)
    matches(planned, step, (state, batch), tree_error)


def test_batch_norm_under_data_parallelism(compile_plan, tree_error):
    """One all-reduce for the gradients; each batch norm adds one forward and one backward."""
    step, state, batch = training(BatchNorms(), normal(0, 16, 64, 64, 3), normal(1, 16, 1, 1, 4))
    planned = compile_plan(step, (state, batch), "dp", "x=4,y=2")
    assert {c.kind for c in planned.collectives} == {"all-reduce"}
    assert len(planned.collectives) <= 7
    matches(planned, step, (state, batch), tree_error)


@pytest.mark.slow
def test_convolutions_alternate_between_output_and_input_channels(compile_plan, tree_error):
    step, state, batch = training(Convolutions(16), normal(0, 8, 8, 8, 16), normal(1, 8, 8, 8, 16))
    planned = compile_plan(step, (state, batch), "tensor", "x=8")
    specs = [planned.spec(f"params/Conv_{i}/kernel") for i in range(4)]
    assert specs == ["P(-, -, -, x)", "P(-, -, x, -)"] * 2
    assert {c.kind for c in planned.collectives} == {"all-reduce"}
    assert sum(c.n_operands for c in planned.collectives) == 3
    matches(planned, step, (state, batch), tree_error)


@pytest.mark.parametrize("strategy", ["dp", "tensor", "zero3"])
def test_transpose_reshape_and_matmul(compile_plan, strategy):
    def function(x, w):
        return -(x.transpose(0, 2, 1).reshape(64, 1024) @ w.reshape(1024, 64))

    args = normal(0, 64, 32, 32), normal(1, 16, 64, 64)
    planned = compile_plan(function, args, strategy, "x=8")
    np.testing.assert_allclose(planned(*args), jax.jit(function)(*args), rtol=1e-4, atol=1e-3)


# What a plan must not depend on -----------------------------------------------------------------


def gpt(rename=lambda name: name):
    """A train step whose parameters have other names from outside."""
    spec = models.get("gpt-tiny")
    tx = optax.adamw(1e-3)
    shapes = jax.tree_util.tree_flatten_with_path(spec.param_shapes())
    paths = {rename("/".join(k.key for k in path)): path for path, _ in shapes[0]}
    leaves = {rename("/".join(k.key for k in path)): leaf for path, leaf in shapes[0]}

    def step(params, opt_state, batch):
        def loss(flat):
            tree = {}
            for name, leaf in flat.items():
                *outer, last = [k.key for k in paths[name]]
                node = tree
                for key in outer:
                    node = node.setdefault(key, {})
                node[last] = leaf
            return spec.loss(tree, batch)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return step, (leaves, jax.eval_shape(tx.init, leaves), spec.example_batch(16, 32))


@pytest.mark.parametrize(
    "strategy",
    ["zero3+tensor", "zero3", "zero1+megatron", "zero2", "dp+sequence", "dp+expert", "dp+table"],
)
def test_names_do_not_matter(plan_of, strategy):
    """Other names, which also put the leaves in another order."""
    shuffled = random.Random(strategy)
    new: dict[str, str] = {}

    def rename(name):
        return new.setdefault(name, f"p{shuffled.getrandbits(60):x}")

    one = plan_of(*gpt(), strategy, "data=2,model=4")
    two = plan_of(*gpt(rename), strategy, "data=2,model=4")
    assert sorted(new, key=new.__getitem__) != sorted(new)
    for old, name in new.items():
        for where in ("params", "opt_state/0/mu", "opt_state/0/nu"):
            assert one.leaf(f"{where}/{old}").spec == two.leaf(f"{where}/{name}").spec, old
    assert one.leaf("batch/inputs").spec == two.leaf("batch/inputs").spec


def test_the_order_in_which_a_dictionary_was_filled_does_not_matter(plan_of):
    step, (params, opt_state, batch) = gpt()
    backwards = dict(reversed(params.items()))
    one = plan_of(step, (params, opt_state, batch), "zero3+tensor", "data=2,model=4")
    two = plan_of(step, (backwards, opt_state, batch), "zero3+tensor", "data=2,model=4")
    assert one == two


HASH_SCRIPT = """
import hashlib, jax, optax
from autoshard import models
from autoshard.plan import parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace
spec = models.get("llama-tiny", layers=1)
create, step = models.make_training(spec, optax.adamw(1e-3))
args = jax.eval_shape(create, jax.random.key(0)), spec.example_batch(16, 32)
plan = plan_by_recipe(trace(step, args), parse_mesh("data=2,model=4", 8), "zero3+tensor")
said = [plan.explain(), plan.notes, list(plan.constraints.items()), sorted(plan.regathers)]
said.append(list(plan.reductions.items()))
print(hashlib.sha256(repr(said).encode()).hexdigest())
"""


def test_a_plan_does_not_depend_on_the_hash_seed(tmp_path: Path):
    found = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", HASH_SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_scanned_layers_get_the_specs_of_unrolled_ones(plan_of):
    """Under ZeRO-3 and tensor parallelism alike; the layers' dimension is never cut."""
    specs = {}
    for scan in (False, True):
        spec = models.get("llama-tiny", scan_layers=scan, layers=2)
        create, step = models.make_training(spec, optax.adamw(1e-3))
        args = jax.eval_shape(create, jax.random.key(0)), spec.example_batch(16, 32)
        plan = plan_of(step, args, "zero3+tensor", "data=2,model=4")
        prefix = "state/params/layers/" if scan else "state/params/layers_1/"
        specs[scan] = {
            leaf.path.removeprefix(prefix): leaf.spec
            for leaf in plan.state
            if leaf.path.startswith(prefix)
        }
    assert specs[True].keys() == specs[False].keys()
    for path, spec in specs[True].items():
        assert spec.dims[0] == ()
        assert spec.dims[1:] == specs[False][path].dims, path
