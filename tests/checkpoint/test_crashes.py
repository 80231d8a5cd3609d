"""A process that dies at any moment, and disks that fail."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crash_driver import SCENARIOS, save, tree

import autoshard.checkpoint as ck
from autoshard.checkpoint._directory import committed_steps, step_path
from autoshard.checkpoint._io import observed
from autoshard.errors import CheckpointWriteError

DRIVER = Path(__file__).with_name("crash_driver.py")


def drive(scenarios: str, how: str) -> str:
    command = [sys.executable, str(DRIVER), scenarios, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_killed_at_some_moments():
    told = drive(",".join(SCENARIOS), "sample")
    assert [line.partition(":")[0] for line in told.splitlines()] == list(SCENARIOS)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["every", "random"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_moment(scenario, how):
    drive(scenario, how)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two committed steps."""
    for step in (1, 2):
        ck.save(step_path(tmp_path / "run", step), tree(step), step=step)
    return tmp_path / "run"


def test_a_conversion_goes_on_where_it_was(directory, tmp_path):
    """What a killed conversion had finished is not written again."""
    big = {f"w{i}": np.full((64, 64), i, np.float32) for i in range(8)}
    ck.save(tmp_path / "big", big)
    source = ck.open_source(tmp_path / "big")
    sink = ck.create_sink(tmp_path / "new", journal=True)
    for name in ("w0", "w1", "w2"):
        sink.declare(name, source.tensors()[name])
        sink.write(name, (slice(0, 64), slice(0, 64)), source.read(name, (slice(0, 64),) * 2))
    sink.suspend()
    assert not (tmp_path / "new").exists()
    with ck.create_sink(tmp_path / "new", journal=True) as again:
        pending = {}
        for name, info in source.tensors().items():
            again.declare(name, info)
            pending[name] = again.pending(name)
            for index in pending[name]:
                again.write(name, index, source.read(name, index))
        again.commit()
    assert [name for name, parts in pending.items() if not parts] == ["w0", "w1", "w2"]
    assert ck.metadata(tmp_path / "new").digest == source.manifest.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big", "new", "run"]


# Full disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "fsync", "rename"])
def test_a_failing_disk(operation, code, directory):
    def fails(found: str, path: Path) -> None:
        if found == operation and "autoshard-tmp" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        if found == operation == "rename":
            raise OSError(code, os.strerror(code), str(path))

    with observed(fails), pytest.raises(CheckpointWriteError, match=os.strerror(code)):
        ck.save(step_path(directory, 3), tree(3))
    assert set(committed_steps(directory)) == {1, 2}
    assert not [p for p in directory.iterdir() if "autoshard-t" in p.name]
    ck.save(step_path(directory, 3), tree(3))
    ck.verify(step_path(directory, 3)).check()


FULL = """
import resource, signal, sys
import numpy as np
import autoshard.checkpoint as ck
from autoshard.errors import CheckpointWriteError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    ck.save(sys.argv[1] + "/step_00000003", {"w": np.ones(1_000_000)})
except CheckpointWriteError:
    ck.save(sys.argv[1] + "/step_00000004", {"w": np.ones(10)})
"""


def test_no_room_for_a_file(directory):
    """The limit of a process is the nearest to a full disk that needs no privileges."""
    done = subprocess.run([sys.executable, "-c", FULL, str(directory)], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert set(committed_steps(directory)) == {1, 2, 4}


def test_a_read_only_directory(directory):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    directory.chmod(0o500)
    try:
        with pytest.raises(CheckpointWriteError, match="Permission denied"):
            save(directory)
    finally:
        directory.chmod(0o700)
    save(directory)
