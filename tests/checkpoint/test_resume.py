"""Training goes on from a checkpoint as if it had never stopped, on the same mesh and on others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoint_trees import assert_same
from flax import nnx

import autoshard
import autoshard.checkpoint as ck
from autoshard import models
from autoshard.errors import CheckpointMismatchError

BATCH, SEQ = 16, 32
MESHES = [("data=2,model=4", "zero3+tensor"), ("data=8", "zero3"), ("data=4,model=2", "dp+tensor")]


def training():
    spec = models.get("gpt-tiny", layers=1, hidden=32)
    return spec, models.make_training(spec, optax.adamw(1e-3))


def batch_of(spec, index):
    random = np.random.default_rng(index)
    shapes = spec.example_batch(BATCH, SEQ)
    return {k: random.integers(0, 64, v.shape).astype(v.dtype) for k, v in shapes.items()}


def run(step, state, spec, steps):
    losses = []
    for index in steps:
        state, metrics = step(state, batch_of(spec, index))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Losses of 60 steps on one mesh, with a checkpoint after 10."""
    spec, made = training()
    mesh, strategy = MESHES[0]
    step = autoshard.parallelize(made.train_step, mesh=mesh, strategy=strategy)
    example = spec.example_batch(BATCH, SEQ)
    state = step.init(made.create_state, jax.random.key(0), step_args=(example,))
    directory = tmp_path_factory.mktemp("run")
    with ck.Checkpointer(directory, save=ck.SavePolicy(every_steps=10)) as run_of:
        state, losses = run(step, state, spec, range(10))
        assert run_of.maybe_save(10, state, plan=step.last_plan, data={"index": 10})
    state, more = run(step, state, spec, range(10, 60))
    return directory, losses + more


@pytest.mark.parametrize(
    ("mesh", "strategy"),
    [MESHES[0], MESHES[1], pytest.param(*MESHES[2], marks=pytest.mark.slow)],
)
def test_the_loss_curve_goes_on(mesh, strategy, uninterrupted):
    directory, losses = uninterrupted
    spec, made = training()
    step = autoshard.parallelize(made.train_step, mesh=mesh, strategy=strategy)
    example = spec.example_batch(BATCH, SEQ)
    state = step.restore(directory, made.create_state, jax.random.key(0), step_args=(example,))
    plan = step.last_plan
    for (path, leaf), planned in zip(
        jax.tree_util.tree_flatten_with_path(state)[0], plan.state, strict=True
    ):
        assert leaf.sharding.spec == planned.spec.partition_spec(), path
    first = state
    newest = ck.latest(directory)
    assert newest is not None
    start = ck.metadata(newest).metadata["data"]["index"]
    state, found = run(step, state, spec, range(start, 60))
    if (mesh, strategy) == MESHES[0]:
        assert found == losses[10:]  # bit by bit
    else:
        np.testing.assert_allclose(found, losses[10:], rtol=1e-5)
    # The restored arrays were donated, and their types are those of the state that goes round.
    assert jax.tree.leaves(first.params)[0].is_deleted()
    (entry,) = step._memory.entries.values()
    assert entry.function._cache_size() == 1


def test_the_plan_travels(uninterrupted):
    directory, _ = uninterrupted
    path = ck.latest(directory)
    assert path is not None
    told = ck.metadata(path)
    assert told.plan is not None and told.step == 10 and told.mesh == {"data": 2, "model": 4}
    assert told.plan["strategy"] == "zero3+tensor"
    plan = autoshard.load_plan(path / "autoshard" / "plan.json")
    spec, made = training()
    step = autoshard.parallelize(made.train_step, plan=plan)
    example = spec.example_batch(BATCH, SEQ)
    state = step.restore(path, made.create_state, jax.random.key(0), step_args=(example,))
    _, found = run(step, state, spec, range(10, 13))
    assert found == uninterrupted[1][10:13]


def test_another_model_does_not_fit(uninterrupted):
    directory, _ = uninterrupted
    spec = models.get("gpt-tiny", layers=1, hidden=64)
    made = models.make_training(spec, optax.adamw(1e-3))
    step = autoshard.parallelize(made.train_step, mesh="data=8")
    example = spec.example_batch(BATCH, SEQ)
    with pytest.raises(CheckpointMismatchError, match="shape: saved"):
        step.restore(directory, made.create_state, jax.random.key(0), step_args=(example,))


def test_a_state_as_the_target(tmp_path):
    def train(state, x):
        return {"w": state["w"] * 0.9}, jnp.mean(x @ state["w"])

    state = {"w": jnp.arange(128.0).reshape(16, 8)}
    ck.save(tmp_path / "c", state)
    step = autoshard.parallelize(train, mesh="data=8")
    x = jnp.ones((16, 16))
    for target in (state, jax.eval_shape(lambda: state)):
        found = step.restore(tmp_path / "c", target, step_args=(x,))
        assert_same(found, state)
        assert float(step(found, x)[1]) == pytest.approx(float(train(state, x)[1]))


def test_nnx_objects(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(16, 32, rngs=rngs)
            self.two = nnx.Linear(32, 8, rngs=rngs)

        def __call__(self, x):
            return self.two(nnx.relu(self.one(x)))

    def create(key):
        model = Model(nnx.Rngs(key))
        return model, nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)

    def train(model, optimizer, x):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    x = jax.random.normal(jax.random.key(1), (16, 16))
    step = autoshard.parallelize(train, mesh="data=2,model=4", strategy="zero3+tensor")
    objects = step.init(create, jax.random.key(0), step_args=(x,))
    first = [float(step(*objects, x)) for _ in range(3)]
    ck.save(tmp_path / "c", tuple(map(nnx.state, objects)))
    more = [float(step(*objects, x)) for _ in range(3)]
    other = autoshard.parallelize(train, mesh="data=8")
    found = other.restore(tmp_path / "c", create, jax.random.key(5), step_args=(x,))
    np.testing.assert_allclose([float(other(*found, x)) for _ in range(3)], more, rtol=1e-5)
    assert more[0] < first[0]
