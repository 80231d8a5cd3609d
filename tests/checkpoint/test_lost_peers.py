"""A process of a cluster is lost: the others are told which, soon, and nothing partial is left."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from clusters import cluster

import autoshard.checkpoint as ck

WORKER = Path(__file__).with_name("lost_peer_worker.py")
pytestmark = pytest.mark.multiprocess


def run(directory: Path, lost: int, moment: str) -> tuple[int, str, str]:
    """Exit code and output of the process that was not lost."""
    with cluster(2, WORKER, directory, lost, moment) as started:
        stdout, stderr = started[1 - lost].communicate(timeout=120)
        if "stopped" not in moment:
            assert started[lost].wait(timeout=60) == -signal.SIGKILL
    return started[1 - lost].returncode, stdout, stderr


def check(directory: Path, committed: list[int]) -> None:
    """Nothing partial is visible, and the next save works."""
    assert list(ck.committed_steps(directory)) == committed
    for path in directory.iterdir():
        assert path in ck.committed_steps(directory).values() or "autoshard-tmp" in path.name
    with ck.Checkpointer(directory, keep=ck.KeepPolicy(last=9), strict=True) as checkpointer:
        checkpointer.save(3, {"w": np.ones(8)})
    assert list(ck.committed_steps(directory)) == [*committed, 3]
    assert not [p for p in directory.iterdir() if "autoshard-t" in p.name]
    for path in ck.committed_steps(directory).values():
        ck.verify(path).check()


MOMENTS = [
    "while writing tiles",
    pytest.param("stopped while writing tiles", marks=pytest.mark.slow),
    pytest.param("before the save", marks=pytest.mark.slow),
    pytest.param("before its note", marks=pytest.mark.slow),
    pytest.param("in the background", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_leader_is_told(moment, tmp_path):
    code, stdout, stderr = run(tmp_path, 1, moment)
    assert code == 0, stderr[-4000:]
    found = json.loads(stdout.splitlines()[-1])
    assert found["process"] == 1
    assert "step_00000002: could not be saved: process 1 (process id" in found["text"]
    assert "has given no sign of life for" in found["text"]
    assert found["seconds"] < 8  # the time limit was 2 s
    check(tmp_path, [1])


@pytest.mark.slow
def test_who_leads_does_not_wait_for_others_after_the_commit(tmp_path):
    code, stdout, stderr = run(tmp_path, 1, "before it hears of the commit")
    assert code == 0, stderr[-4000:]
    assert "process" not in json.loads(stdout.splitlines()[-1])
    check(tmp_path, [1, 2])


@pytest.mark.slow
def test_loading_needs_nobody_else(tmp_path):
    code, stdout, stderr = run(tmp_path, 1, "while loading")
    assert code == 0, stderr[-4000:]
    assert json.loads(stdout.splitlines()[-1])["loaded"] == (0 + 1 + 2 + 3) * 512 * 256
    check(tmp_path, [1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "committed"),
    [
        ("while writing tiles", [1]),
        ("before the commit", [1]),
        ("after the commit", [1, 2]),
    ],
)
def test_the_leader_is_lost(moment, committed, tmp_path):
    """It runs jax's service: without that, jax itself ends the others at once, and says why."""
    code, _, stderr = run(tmp_path, 0, moment)
    assert code == -signal.SIGABRT
    assert "another task died" in stderr
    check(tmp_path, committed)
