"""What a removal may take of temporary directories: nothing that somebody still needs."""

import os

import numpy as np

import autoshard.checkpoint as ck
from autoshard.checkpoint import _owner
from autoshard.checkpoint._commit import leftovers
from autoshard.checkpoint._directory import step_path


def names(directory):
    return sorted(path.name for path in leftovers(directory))


def test_only_processes_of_this_machine_can_be_asked(tmp_path, monkeypatch):
    here = _owner.new_token()
    monkeypatch.setattr(_owner, "_machine", lambda: "0123abcd")
    gone = 2**22 + 1  # above the largest process id
    there = f"{gone}-feedbeef-1"
    for token in (here, there, f"{gone}-0123abcd-2", f"{os.getpid()}-0123abcd-3"):
        (tmp_path / f"step_00000001.autoshard-tmp-{token}").mkdir()
    (tmp_path / f"step_00000001.autoshard-trash-{there}").mkdir()
    assert names(tmp_path) == [f"step_00000001.autoshard-tmp-{gone}-0123abcd-2"]
    day_before_s = (tmp_path / f"step_00000001.autoshard-tmp-{there}").stat().st_mtime - 25 * 3600
    for path in tmp_path.iterdir():
        os.utime(path, (day_before_s, day_before_s))
    assert len(names(tmp_path)) == 5


def test_a_conversion_under_way_is_left_alone(tmp_path):
    ck.save(step_path(tmp_path, 1), {"w": np.ones(4)})
    ck.save(step_path(tmp_path, 2), {"w": np.ones(4)})
    source = ck.open_source(step_path(tmp_path, 2))
    sink = ck.create_sink(step_path(tmp_path, 9), journal=True)
    sink.declare("w", source.tensors()["w"])
    assert ck.prune(tmp_path, ck.KeepPolicy(last=1)) == [step_path(tmp_path, 1)]
    sink.write("w", (slice(0, 4),), source.read("w", (slice(0, 4),)))
    sink.suspend()
    assert not names(tmp_path)  # the same command goes on with it
    with ck.create_sink(step_path(tmp_path, 9), journal=True) as again:
        again.declare("w", source.tensors()["w"])
        assert not again.pending("w")
    for path in tmp_path.glob("*journal*"):
        os.utime(path, (0, 0))
    assert len(ck.prune(tmp_path, ck.KeepPolicy(last=1))) == 0  # the block above aborted it


def test_a_resumed_run_goes_on_counting(tmp_path):
    policy = ck.SavePolicy(every_steps=10)
    with ck.Checkpointer(tmp_path, save=policy, background=False) as first:
        assert [s for s in range(1, 31) if first.maybe_save(s, {"w": np.ones(2)})] == [10, 20, 30]
    with ck.Checkpointer(tmp_path, save=policy, background=False) as second:
        assert not second.should_save(30)
        assert [s for s in range(31, 51) if second.maybe_save(s, {"w": np.ones(2)})] == [40, 50]
