"""Flax's sharding metadata becomes pins."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.linen import spmd
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec as P

import autoshard
from autoshard.errors import LogicalAxisError, PinAxisError

ONES = nn.initializers.lecun_normal()


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32, kernel_init=nn.with_logical_partitioning(ONES, ("embed", "mlp")))(x)
        x = nn.relu(x)
        return nn.Dense(8, kernel_init=nn.with_partitioning(ONES, ("model", None)))(x)


def variables():
    return jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((2, 16)))


def test_linen_boxes():
    pins = autoshard.logical_pins(variables(), {"embed": "data", "mlp": "model"})
    assert pins == {
        "params/Dense_0/kernel": P("data", "model"),
        "params/Dense_1/kernel": P("model", None),
    }


@pytest.mark.parametrize(
    "rules",
    [
        (("embed", "model"), ("mlp", "model")),
        (("mlp", "model"), ("embed", "model")),
        (("mlp", "model"), ("mlp", "data"), ("embed", "model"), ("embed", ("data",))),
        [("mlp", None), ("mlp", "data")],
        {"embed": ("data", "model")},
        (("other", "data"),),
    ],
)
def test_rules_mean_what_they_mean_to_flax(rules):
    pairs = tuple(rules.items()) if isinstance(rules, dict) else rules
    pins = autoshard.logical_pins(variables(), rules)
    assert pins["params/Dense_0/kernel"] == spmd.logical_to_mesh_axes(("embed", "mlp"), pairs)


def test_nnx_state():
    def build():
        kernel = nnx.with_partitioning(ONES, ("embed", "mlp"), eager_sharding=False)
        own = nnx.with_partitioning(
            ONES, ("embed", "mlp"), eager_sharding=False, sharding_rules=(("mlp", "data"),)
        )
        return nnx.List(
            [
                nnx.Linear(16, 32, kernel_init=kernel, rngs=nnx.Rngs(0)),
                nnx.Linear(16, 32, kernel_init=own, rngs=nnx.Rngs(0)),
            ]
        )

    model = nnx.eval_shape(build)
    for tree in (model, nnx.state(model)):
        pins = autoshard.logical_pins(tree, {"embed": "model"})
        assert pins == {"0/kernel": P("model", "mlp"), "1/kernel": P("model", "data")}


@pytest.mark.parametrize(
    "rules", [{"embed": 3}, [("embed",)], {3: "data"}, [("a", "data", "model")]]
)
def test_what_is_no_rule(rules):
    with pytest.raises(LogicalAxisError, match=r"rules: .*\nMend it"):
        autoshard.logical_pins(variables(), rules)


def test_names_that_do_not_fit():
    twice = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((4, 4), "float32"), ("a", "a"))
    with pytest.raises(LogicalAxisError, match=r"w: names .*more than once"):
        autoshard.logical_pins({"w": twice}, {"a": "data"})
    short = nn.Partitioned(jax.ShapeDtypeStruct((4, 4), "float32"), ("data",))
    with pytest.raises(LogicalAxisError, match=r"array of shape \[4, 4\]"):
        autoshard.logical_pins({"w": short})


def step(state, batch):
    def loss_fn(params):
        return jnp.mean((state.apply_fn({"params": params}, batch["x"]) - batch["y"]) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


@pytest.mark.parametrize("boxed", [False, True])
def test_a_step_with_the_model_s_own_metadata(boxed):
    pins = autoshard.logical_pins(variables(), {"embed": None, "mlp": "model"})

    def create(key):
        made = Model().init(key, jnp.ones((2, 16)))["params"]
        made = made if boxed else nn.meta.unbox(made)
        return TrainState.create(apply_fn=Model().apply, params=made, tx=optax.adamw(1e-2))

    batch = {"x": np.ones((16, 16), np.float32), "y": np.zeros((16, 8), np.float32)}
    state = jax.jit(create)(jax.random.key(0))
    planned = autoshard.parallelize(step, mesh="data=2,model=4", strategy="dp@data", pins=pins)
    found, loss = planned(state, batch)
    wanted, wanted_loss = jax.jit(step)(state, batch)
    end = "/value" if boxed else ""
    for tree in ("params", "opt_state/0/mu", "opt_state/0/nu"):
        plan = planned.last_plan
        assert str(plan.leaf(f"state/{tree}/Dense_0/kernel{end}").spec) == "P(-, model)"
        assert str(plan.leaf(f"state/{tree}/Dense_1/kernel{end}").spec) == "P(model, -)"
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_without_rules_names_are_axes():
    pins = autoshard.logical_pins(variables())
    with pytest.raises(PinAxisError, match="'embed', which the mesh does not have"):
        autoshard.parallelize(step, mesh="data=2,model=4", strategy="dp@data", pins=pins).plan(
            TrainState.create(
                apply_fn=Model().apply,
                params=nn.meta.unbox(variables()["params"]),
                tx=optax.identity(),
            ),
            {"x": jax.ShapeDtypeStruct((16, 16), "float32")}
            | {"y": jax.ShapeDtypeStruct((16, 8), "float32")},
        )
