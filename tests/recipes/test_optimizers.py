"""The optimizer's state follows its parameter, whatever the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

X = 8
PARAMS = {"up": (16, 64), "bias": (64,), "down": (64, 16), "scale": (16,)}
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)


def labels(params):
    return {name: "decay" if leaf.ndim > 1 else "plain" for name, leaf in params.items()}


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "sgd-momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(1e-2),
    "adamw-schedule": lambda: optax.adamw(SCHEDULE),
    "lion": lambda: optax.lion(1e-2),
    "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=8),
    "adafactor-momentum": lambda: optax.adafactor(
        1e-2, min_dim_size_to_factor=8, momentum=0.9, multiply_by_parameter_scale=False
    ),
    "clip-adamw": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2)),
    "masked": lambda: optax.chain(
        optax.masked(
            optax.add_decayed_weights(0.1), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
        ),
        optax.masked(optax.adam(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    ),
    "multi-transform": lambda: optax.multi_transform(
        {"decay": optax.adamw(1e-2), "plain": optax.sgd(0.1, momentum=0.9)}, labels
    ),
    "multi-steps": lambda: optax.MultiSteps(optax.adamw(1e-2), every_k_schedule=2),
    "lamb": lambda: optax.lamb(1e-2),
    "adagrad": lambda: optax.adagrad(1e-2),
    "rmsprop": lambda: optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "adadelta": lambda: optax.adadelta(1e-2),
    "adamax": lambda: optax.adamax(1e-2),
    "amsgrad": lambda: optax.amsgrad(1e-2),
    "nadamw": lambda: optax.nadamw(1e-2),
    "yogi": lambda: optax.yogi(1e-2),
    "radam": lambda: optax.radam(1e-2),
    "adan": lambda: optax.adan(1e-2),
    "muon": lambda: optax.contrib.muon(1e-2),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(1e-2),
    "prodigy": lambda: optax.contrib.prodigy(1e-2),
    "ema": lambda: optax.chain(optax.adam(1e-2), optax.ema(0.99)),
    "accumulated-bf16": lambda: optax.chain(
        optax.scale_by_adam(mu_dtype=jnp.bfloat16), optax.scale(-1e-2)
    ),
    "inject": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE),
}


def forward(params, x):
    hidden = jax.nn.gelu(x @ params["up"] + params["bias"][None])
    return hidden @ params["down"] * params["scale"][None]


def make(name):
    """A train step on raw trees, its state, and three batches."""
    tx = OPTIMIZERS[name]()

    def step(params, opt_state, batch):
        def loss(p):
            return jnp.mean((forward(p, batch["x"]) - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    keys = iter(jax.random.split(jax.random.key(0), 12))
    params = {n: jax.random.normal(next(keys), s) / 4 for n, s in PARAMS.items()}
    batches = [{n: jax.random.normal(next(keys), (32, 16)) for n in ("x", "y")} for _ in range(3)]
    return step, params, tx.init(params), batches


WANTED = {
    "zero3": {"up": "P(-, x)", "bias": "P(x)", "down": "P(x, -)", "scale": "P(x)"},
    "tensor": {"up": "P(-, x)", "bias": "P(x)", "down": "P(x, -)", "scale": "P(-)"},
    "zero3+tensor": {
        "up": "P(data, model)",
        "bias": "P((model,data))",
        "down": "P(model, data)",
        "scale": "P(data)",
    },
}


USUAL = ("adafactor", "adamw", "masked", "multi-steps", "multi-transform", "muon")
NAMES = [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in OPTIMIZERS]

UPDATE_ALONE = {"zero1": "zero3", "zero2": "zero3"}
"""Stages that store the moments as stage 3 does, and the parameters whole."""


def mesh_of(strategy):
    return "data=2,model=4" if "+" in strategy else "x=8"


@pytest.mark.parametrize("strategy", UPDATE_ALONE)
@pytest.mark.parametrize("name", NAMES)
def test_update_is_cut_and_parameters_are_not(plan_of, name, strategy):
    step, params, opt_state, batches = make(name)
    plan = plan_of(step, (params, opt_state, batches[0]), strategy, "x=8")
    wanted = WANTED[UPDATE_ALONE[strategy]]
    for leaf in plan.arguments:
        path = leaf.path.split("/")
        if path[0] == "params":
            assert leaf.spec.is_replicated
        elif path[0] == "opt_state" and path[-1] in PARAMS and leaf.shape == PARAMS[path[-1]]:
            assert str(leaf.spec) == wanted[path[-1]], leaf.path


@pytest.mark.parametrize("strategy", WANTED)
@pytest.mark.parametrize("name", NAMES)
def test_state_of_a_parameters_shape_has_its_spec(plan_of, name, strategy):
    step, params, opt_state, batches = make(name)
    plan = plan_of(step, (params, opt_state, batches[0]), strategy, mesh_of(strategy))
    wanted = WANTED[strategy]
    assert {n: str(plan.leaf(f"params/{n}").spec) for n in PARAMS} == wanted
    followers = [
        leaf
        for leaf in plan.arguments
        if leaf.path.startswith("opt_state/")
        and leaf.path.rpartition("/")[2] in PARAMS
        and leaf.shape == PARAMS[leaf.path.rpartition("/")[2]]
    ]
    if name not in ("sgd", "adafactor"):
        assert followers
    for leaf in followers:
        assert str(leaf.spec) == wanted[leaf.path.rpartition("/")[2]], leaf.path
        assert leaf.reason != "replicated: nothing shards it" or leaf.spec.is_replicated
    for leaf in plan.arguments:
        if not leaf.shape:
            assert leaf.spec.is_replicated
    # Results come back in the specs in which they are taken.
    given = {leaf.path: leaf.spec for leaf in plan.arguments}
    for leaf in plan.results:
        first, _, rest = leaf.path.partition("/")
        if first in "01":
            assert leaf.spec == given[("params/", "opt_state/")[int(first)] + rest], leaf.path


@pytest.mark.parametrize("strategy", WANTED)
def test_factored_vectors_follow_their_dimension(plan_of, strategy):
    step, params, opt_state, batches = make("adafactor")
    plan = plan_of(step, (params, opt_state, batches[0]), strategy, mesh_of(strategy))
    found = 0
    for leaf in plan.state:
        *_, kind, name = leaf.path.split("/")
        if kind not in ("v_row", "v_col") or leaf.shape == (1,):
            continue
        parameter = plan.leaf(f"params/{name}")
        (d,) = (d for d, size in enumerate(parameter.shape) if size == leaf.shape[0])
        assert leaf.spec.dims == (parameter.spec.dims[d],), leaf.path
        found += 1
    assert found == 4


QUICK = {
    ("adafactor", "zero3+tensor"),
    ("multi-steps", "zero3+tensor"),
    ("multi-transform", "zero3"),
}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(n, s, marks=() if (n, s) in QUICK or n == "clip-adamw" else pytest.mark.slow)
        for n in OPTIMIZERS
        for s in WANTED
    ],
)
def test_three_steps_equal_those_of_one_device(compile_plan, tree_error, name, strategy):
    """MultiSteps emits an update in the second."""
    step, params, opt_state, batches = make(name)
    planned = compile_plan(step, (params, opt_state, batches[0]), strategy, mesh_of(strategy))
    alone = jax.jit(step)
    found, wanted = (params, opt_state), (params, opt_state)
    for batch in batches:
        *found, value = planned(*found, batch)
        *wanted, alone_value = alone(*wanted, batch)
        np.testing.assert_allclose(value, alone_value, rtol=1e-5)
    assert tree_error(found, wanted) < 5e-5
    assert not np.allclose(found[0]["up"], params["up"])
