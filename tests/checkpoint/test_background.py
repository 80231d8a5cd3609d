"""Saving while training goes on, policies, and failures that do not spread."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_trees import assert_same, mesh, on, random_array

import autoshard.checkpoint as ck
from autoshard.checkpoint._io import observed
from autoshard.errors import CheckpointError, CheckpointExistsError, CheckpointWriteError


def test_arrays_may_change_at_once(tmp_path):
    """Donated and overwritten while they are written: the saved bytes are those of the call."""
    whole = np.random.default_rng(0).random((512, 512), np.float32)
    host = whole.copy()
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    # Made by a step, so that the memory is jax's own and donation takes it.
    state = {"w": step(jax.device_put(whole - 1, on(mesh("d=8"), "d"))), "host": host}
    whole = np.array(state["w"])
    pending = ck.save_async(tmp_path / "c", state)
    after = step(state["w"])
    host[:] = 0
    np.testing.assert_array_equal(after, whole + 1)
    assert pending.result().digest == ck.metadata(tmp_path / "c").digest
    assert pending.done()
    found = ck.load(tmp_path / "c")
    assert_same(found["w"], whole)
    np.testing.assert_allclose(found["host"], whole, atol=1e-6)


def failing(code=errno.ENOSPC):
    def fails(operation, path):
        if operation == "fsync" and "autoshard-tmp" in str(path):
            raise OSError(code, "No space left on device")

    return observed(fails)


@pytest.mark.parametrize("background", [True, False])
def test_a_failed_save_does_not_spread(background, tmp_path):
    run = ck.Checkpointer(tmp_path, background=background)
    state = {"w": jnp.ones((8, 8))}
    run.save(1, state)
    if background:
        with failing():
            run.save(2, state)
        with pytest.warns(ck.CheckpointWarning, match="No space left"):
            run.save(3, state)
    else:
        with failing(), pytest.warns(ck.CheckpointWarning, match="No space left"):
            run.save(2, state)
        run.save(3, state)
    run.wait()
    assert run.steps() == [1, 3]
    assert [type(e) for e in run.failures] == [CheckpointWriteError]
    run.save(2, state)  # the step is free: nothing was left of it
    run.wait()
    assert run.steps() == [1, 2, 3]


def test_strict(tmp_path):
    run = ck.Checkpointer(tmp_path, strict=True)
    with failing():
        run.save(1, {"w": jnp.ones(3)})
    with pytest.raises(CheckpointWriteError):
        run.wait()
    run.save(1, {"w": jnp.ones(3)})
    run.wait()
    with pytest.raises(CheckpointExistsError):
        run.save(1, {"w": jnp.ones(3)})


def test_policies(tmp_path):
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 9.0, 7: 8.0}
    keep = ck.KeepPolicy(last=2, every=4, best="loss")
    with ck.Checkpointer(tmp_path, save=ck.SavePolicy(every_steps=1), keep=keep) as run:
        for step, loss in losses.items():
            assert run.maybe_save(step, {"w": jnp.ones(3)}, metrics={"loss": loss})
    assert run.steps() == [2, 4, 6, 7]
    policy = ck.SavePolicy(every_steps=10, every_minutes=5)
    assert [policy.due(9, 4), policy.due(10, 0), policy.due(1, 5)] == [False, True, True]
    highest = ck.KeepPolicy(last=1, best="accuracy", best_mode="max")
    metrics = {1: {"accuracy": 0.9}, 2: {"accuracy": 0.5}, 3: {}}
    assert highest.keep([1, 2, 3], metrics) == {1, 3}


@pytest.mark.parametrize(
    "make",
    [
        lambda: ck.SavePolicy(),
        lambda: ck.SavePolicy(every_steps=0),
        lambda: ck.KeepPolicy(last=0),
        lambda: ck.KeepPolicy(every=0),
    ],
)
def test_policies_that_are_none(make):
    with pytest.raises(CheckpointError):
        make()


def test_the_last_whole_one_is_never_pruned(tmp_path):
    run = ck.Checkpointer(tmp_path, verify_saved=False, keep=ck.KeepPolicy(last=9))
    for step in (1, 2, 3):
        run.save(step, {"w": random_array((64, 64), np.float32, step)})
    run.wait()
    for step in (2, 3):
        file = tmp_path / f"step_{step:08d}" / "state" / "w" / "c" / "0" / "0"
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    ck.prune(tmp_path, ck.KeepPolicy(last=1))
    assert run.steps() == [1, 3]
    assert [report.ok for report in ck.scrub(tmp_path)] == [True, False]


def test_restore(tmp_path):
    run = ck.Checkpointer(tmp_path)
    state = {"w": jnp.arange(6.0)}
    run.save(1, state, data={"next": 1}, note={"why": "test"})
    run.save(2, {"w": state["w"] * 2})
    found, told = run.restore(state, step=1)
    assert_same(found, state)
    assert told.metadata == {"data": {"next": 1}, "note": {"why": "test"}}
    assert run.restore(state)[1].step == 2
    assert run.latest() == tmp_path / "step_00000002"
    with pytest.raises(CheckpointError):
        ck.Checkpointer(tmp_path / "none").restore()
    with pytest.raises(CheckpointError, match="is no JSON"):
        run.save(3, state, note={"x": object()})
