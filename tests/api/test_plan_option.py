"""`parallelize(step, plan=…)`: a plan is replayed, and nothing is planned."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.api import _plan_call
from autoshard.errors import (
    ExitCode,
    OptionError,
    PlanFileError,
    PlanMismatchError,
    PlanOptionError,
)

STRATEGY: dict[str, Any] = {"mesh": "data=2,model=4", "strategy": "zero3+tensor"}


@pytest.fixture
def no_planning(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("it was planned")

    return lambda: monkeypatch.setattr(_plan_call, "plan_by_recipe", refuse)


@pytest.fixture
def file(step_function, create_state, batch, tmp_path):
    step = autoshard.parallelize(step_function, **STRATEGY)
    state = jax.eval_shape(create_state, jax.random.key(0))
    step.plan(state, batch).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def losses(step, create_state, batch, steps=4):
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    found = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        found.append(float(metrics["loss"]).hex())
    return found


def test_a_replayed_plan_trains_bitwise_as_the_planned_one(
    file, step_function, create_state, batch, no_planning
):
    planned = losses(autoshard.parallelize(step_function, **STRATEGY), create_state, batch)
    no_planning()
    for plan in (autoshard.load_plan(file), file, str(file)):
        step = autoshard.parallelize(step_function, plan=plan)
        assert losses(step, create_state, batch) == planned
        assert step.strategy == "zero3+tensor"
        assert step.last_plan.mesh_shape == {"data": 2, "model": 4}


TRAIN = """
import sys, json
import autoshard
from autoshard import models
autoshard.emulate(8)
import jax, jax.numpy as jnp, numpy as np, optax

spec = models.get("gpt-tiny")
training = models.make_training(spec, optax.adamw(1e-3))
options = json.loads(sys.argv[1])
step = autoshard.parallelize(training.train_step, **options)
random = np.random.default_rng(0)
batch = {n: random.integers(0, 256, (8, 32), np.int32) for n in ("inputs", "targets")}
state = step.init(training.create_state, jax.random.key(0), step_args=(batch,))
if len(sys.argv) > 2:
    step.plan(state, batch).save(sys.argv[2])
losses = []
for _ in range(3):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]).hex())
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_a_model_trains_bitwise_alike_in_a_new_process(tmp_path):
    def run(options, *args):
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        command = [sys.executable, "-c", TRAIN, json.dumps(options), *args]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    path = str(tmp_path / "plan.json")
    assert run(STRATEGY, path) == run({"plan": path})


def test_renamed_parameters(file, step_function, create_state, batch, no_planning):
    """The plan holds, the numbers are bitwise the same, and the paths are the new ones."""
    names = {"b": "zz", "v": "aa", "w": "middle"}
    back = {new: old for old, new in names.items()}

    def renamed_step(params, batch):
        state, metrics = step_function({back[k]: v for k, v in params.items()}, batch)
        return {names[k]: v for k, v in state.items()}, metrics

    def create(key):
        return {names[k]: v for k, v in create_state(key).items()}

    planned = losses(autoshard.parallelize(step_function, **STRATEGY), create_state, batch)
    no_planning()
    step = autoshard.parallelize(renamed_step, plan=file)
    assert losses(step, create, batch) == planned
    old = autoshard.load_plan(file)
    for name, new in names.items():
        assert step.last_plan.leaf(f"params/{new}").spec == old.leaf(f"state/{name}").spec


def test_another_shape_is_refused(file, step_function, create_state, batch, batch_of):
    step = autoshard.parallelize(step_function, plan=file)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    with pytest.raises(PlanMismatchError) as caught:
        step(state, batch_of(32))
    assert caught.value.exit_code == ExitCode.MISMATCH
    assert "argument batch/x: float32[16,16] in the plan, float32[32,16] here" in str(caught.value)
    wider = {**create_state(jax.random.key(0)), "b": jnp.zeros((64,)), "v": jnp.ones((64, 16))}
    with pytest.raises(PlanMismatchError, match="state/b"):
        step.plan({**wider, "w": jnp.ones((16, 64))}, batch)


def test_the_same_specs_for_other_shapes(
    file, step_function, loss_function, batch, batch_of, create_state
):
    """What the error recommends: `like=` plans another function or shape with the plan's specs."""
    step = autoshard.parallelize(step_function, plan=file)
    state = step.init(create_state, jax.random.key(0), step_args=(batch,))
    evaluate = autoshard.parallelize(loss_function, like=step)
    evaluate(state, batch_of(32))
    for name in ("w", "v", "b"):
        there = evaluate.last_plan.leaf(f"state/{name}").spec
        assert there == step.last_plan.leaf(f"state/{name}").spec


def test_another_mesh_is_refused(file, step_function, create_state, batch):
    step = autoshard.parallelize(step_function, plan=file, mesh="data=4,model=2")
    with pytest.raises(PlanMismatchError, match="data=2,model=4 in the plan, data=4,model=2 here"):
        step.plan(jax.eval_shape(create_state, jax.random.key(0)), batch)


def test_fewer_devices_are_refused(file, step_function, create_state, batch, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 4)
    step = autoshard.parallelize(step_function, plan=file)
    with pytest.raises(PlanMismatchError, match="with 8 devices in the plan, 4 are visible"):
        step.plan(jax.eval_shape(create_state, jax.random.key(0)), batch)


def test_options_that_contradict_the_plan(file, step_function):
    plan = autoshard.load_plan(file)
    assert autoshard.parallelize(step_function, plan=plan, strategy="zero3+tensor")
    with pytest.raises(PlanOptionError, match=r"made with 'zero3\+tensor'"):
        autoshard.parallelize(step_function, plan=plan, strategy="dp")
    with pytest.raises(PlanOptionError, match="leave like= out"):
        autoshard.parallelize(step_function, plan=plan, like=autoshard.parallelize(step_function))
    with pytest.raises(PlanOptionError, match="the types of its sums"):
        autoshard.parallelize(step_function, plan=plan, reduce_dtype="bfloat16")
    nonsense: list = [7, {"mesh": "data=8"}]
    for value in nonsense:
        with pytest.raises(OptionError):
            autoshard.parallelize(step_function, plan=value)


def test_a_damaged_file_is_refused_at_once(file, step_function):
    file.write_text(file.read_text()[:500])
    with pytest.raises(PlanFileError):
        autoshard.parallelize(step_function, plan=file)
