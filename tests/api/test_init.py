"""`.init`: the same values as on one device, and no device ever holds more than its part."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import autoshard
from autoshard import models
from autoshard.api._init import creation
from autoshard.errors import ArgumentError, InitStateError
from autoshard.lowering import shardings

INITIALIZERS = {
    "lecun_normal": nn.initializers.lecun_normal(),
    "normal": nn.initializers.normal(),
    "orthogonal": nn.initializers.orthogonal(),
    "truncated_normal": nn.initializers.truncated_normal(),
    "xavier_uniform": nn.initializers.xavier_uniform(),
}
LAYOUTS = [("data=8", "zero3"), ("data=2,model=4", "zero3+tensor")]
SLACK = 4096  # bytes: output tuples and scalars


class Needs(NamedTuple):
    """Bytes: of the state, of its shards on each device, and what making it takes beyond them."""

    whole: int
    shards: int
    beyond: int
    largest_leaf: int


def needs_of(step, create, *args, step_args) -> Needs:
    """What the compiler says about the program that makes the state."""
    state = jax.eval_shape(create, *args)
    n = len(jax.tree.leaves(state))
    planned = step.plan(state, *step_args).arguments[:n]
    made = creation(create, shardings(planned, step.mesh), step.mesh).lower(*args).compile()
    memory = made.memory_analysis()
    shards = sum(leaf.bytes_per_device for leaf in planned)
    total = memory.output_size_in_bytes + memory.temp_size_in_bytes
    whole = sum(leaf.nbytes for leaf in planned)
    return Needs(whole, shards, total - shards, max(leaf.nbytes for leaf in planned))


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize(("mesh", "strategy"), LAYOUTS)
@pytest.mark.parametrize("name", ["gpt-tiny", "llama-tiny"])
def test_memory_of_models(name, mesh, strategy, scan_layers):
    overrides = {"hidden": 256, "layers": 3, "scan_layers": scan_layers}
    if name == "llama-tiny":
        overrides["intermediate"] = 768
    spec = models.get(name, **overrides)
    training = models.make_training(spec, optax.adamw(1e-3))
    step = autoshard.parallelize(training.train_step, mesh=mesh, strategy=strategy)
    batch = spec.example_batch(16, 32)
    needs = needs_of(step, training.create_state, jax.random.key(0), step_args=(batch,))
    assert needs.shards < needs.whole / 7
    assert needs.beyond <= needs.largest_leaf + SLACK


class Network(nn.Module):
    initializer: nn.initializers.Initializer
    layers: int = 4
    hidden: int = 128

    @nn.compact
    def __call__(self, x):
        for _ in range(self.layers):
            x = nn.tanh(nn.Dense(self.hidden, kernel_init=self.initializer)(x))
        return x


def network(initializer, layers=4):
    model, tx = Network(initializer, layers), optax.adam(1e-3)

    def create(key):
        params = model.init(key, jnp.zeros((1, 128)))["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def step(state, x):
        def loss(params):
            return jnp.mean(jnp.square(jnp.asarray(model.apply({"params": params}, x))))

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), value

    return create, step


@pytest.mark.parametrize(("mesh", "strategy"), LAYOUTS)
@pytest.mark.parametrize("name", INITIALIZERS)
def test_memory_and_values_of_initializers(name, mesh, strategy):
    create, function = network(INITIALIZERS[name])
    step = autoshard.parallelize(function, mesh=mesh, strategy=strategy)
    args = (jax.random.key(7),)
    x = jax.ShapeDtypeStruct((16, 128), jnp.float32)
    needs = needs_of(step, create, *args, step_args=(x,))
    # A QR decomposition is made of whole matrices: input, Q, R and workspace, of one leaf at a
    # time: four layers need no more than one.
    leaves_at_once = 4 if name == "orthogonal" else 1
    assert needs.beyond <= leaves_at_once * needs.largest_leaf + SLACK
    if name != "orthogonal":  # LAPACK's threads on eight emulated devices take minutes
        state = step.init(create, *args, step_args=(x,))
        expected = jax.jit(create)(*args)
        for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
        for leaf, planned in zip(jax.tree.leaves(state), step.last_plan.state, strict=True):
            assert leaf.sharding.spec == planned.spec.partition_spec()


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_random_bits_that_cannot_be_cut_are_whole_one_leaf_at_a_time(impl):
    create, function = network(INITIALIZERS["normal"])
    step = autoshard.parallelize(function)
    key = jax.random.key(0, impl=impl)
    x = jax.ShapeDtypeStruct((16, 128), jnp.float32)
    needs = needs_of(step, create, key, step_args=(x,))
    assert needs.beyond <= needs.largest_leaf + SLACK


def test_arguments_from_anywhere(step_function, create_state, batch, same):
    step = autoshard.parallelize(step_function)

    def create(params, key, scale):
        return jax.tree.map(lambda a: a * scale, params) | {"b": jax.random.normal(key, (32,))}

    params = jax.device_put(create_state(jax.random.key(0)), jax.devices()[3])
    args = (params, jax.random.PRNGKey(1), 2.0)
    state = step.init(create, *args, step_args=(batch,))
    same(state, create(*args), rtol=1e-6)
    assert not params["w"].is_deleted()
    state = step.init(create, jax.tree.map(np.asarray, params), *args[1:], step_args=(batch,))
    same(state, create(*args), rtol=1e-6)


def test_other_state_than_the_step_carries(batch):
    step = autoshard.parallelize(lambda x, state: (state, jnp.sum(x * state["w"])))
    with pytest.raises(InitStateError, match="first argument"):
        step.init(
            lambda: jnp.ones((16, 16)), step_args=({"w": jnp.ones((1, 1)), "b": jnp.ones((2, 2))},)
        )


def test_an_argument_that_is_no_array(step_function, batch):
    step = autoshard.parallelize(step_function)
    with pytest.raises(ArgumentError, match="'kind'"):
        step.init(lambda kind: {}, "small", step_args=(batch,))
