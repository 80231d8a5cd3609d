"""Paths, file systems and neighbours that are not as they should be."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import autoshard.checkpoint as ck
from autoshard.checkpoint import _source
from autoshard.checkpoint._directory import step_path
from autoshard.checkpoint._io import observed
from autoshard.checkpoint.layouts.convert import Request, convert, prepare, run
from autoshard.cli import main
from autoshard.errors import (
    CheckpointError,
    CheckpointExistsError,
    CheckpointRemovalError,
    CheckpointWriteError,
    ConversionError,
    ExitCode,
    UsageError,
)


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {"w": rng.random((300, 200)), "b": {"c": rng.random(7).astype("f4")}, "step": seed}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A directory, which is the current one, with a checkpoint "src" in it."""
    monkeypatch.chdir(tmp_path)
    ck.save("src", tree())
    return tmp_path


def same(path: str) -> bool:
    ck.verify(path).check()
    return ck.metadata(path).digest == ck.metadata("src").digest


@pytest.mark.parametrize("target", ["new", "new/", "a b/ünï 文/x", "./real/../y", "link/x"])
@pytest.mark.parametrize("source", ["src", "src/", "linked"])
def test_paths(source, target, here, capfd):
    (here / "real").mkdir()
    os.symlink("real", "link")
    os.symlink("src", "linked")
    assert main(["ckpt", "convert", source, target, "--mesh", "data=2,model=4"]) == ExitCode.OK
    assert same(target) and ck.metadata(target).mesh == {"data": 2, "model": 4}
    ck.save(Path(target).with_name("saved"), ck.load(source))
    assert same(str(Path(target).with_name("saved")))


WAYS: dict[str, Callable[[Path], object]] = {
    "save": lambda target: ck.save(target, tree()),
    "convert": lambda target: convert(Path("src"), target),
    "compact": lambda target: ck.compact("src", target),
}


@pytest.mark.parametrize("way", WAYS)
def test_places_that_are_refused(way, here):
    (here / "empty").mkdir()
    (here / "file").write_text("mine")
    os.symlink("nowhere", "dangling")
    before = sorted(os.listdir())
    for place, error, text in [
        ("empty", CheckpointExistsError, "an empty directory.*\n.*rmdir"),
        ("file", CheckpointExistsError, "is there already"),
        ("dangling", CheckpointExistsError, "is there already"),
        ("src", CheckpointExistsError, "is there already"),
        ("src/inner", CheckpointError, "would lie inside the checkpoint"),
        ("file/x", CheckpointWriteError, "file is no directory"),
        ("n" * 250, CheckpointWriteError, "File name too long"),
        ("a\0b", CheckpointError, "is no path"),
    ]:
        with pytest.raises(error, match=text):
            WAYS[way](Path(place))
    assert sorted(os.listdir()) == before and same("src")
    with pytest.raises(CheckpointError, match="is no path"):
        ck.save("", tree())


def test_a_target_inside_its_source(here):
    ck.save("arrays", {"w": np.ones(3)})
    convert(Path("arrays"), Path("hf"), to_format="safetensors")
    with pytest.raises(UsageError, match="lies inside of its source"):
        convert(Path("hf"), Path("hf/native"), from_layout="none")
    assert os.listdir("hf") == ["model.safetensors"]


# File systems that refuse ------------------------------------------------------------------------


def failing(operation: str, code: int, *, first: int = 1) -> Callable[[str, Path], None]:
    """From the so manieth time on, an operation fails."""
    seen = [0]

    def fails(found: str, path: Path) -> None:
        seen[0] += found == operation
        if found == operation and seen[0] >= first:
            raise OSError(code, os.strerror(code), str(path))

    return fails


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("operation", ["mkdir", "create", "write", "fsync", "rename"])
@pytest.mark.parametrize("way", ["convert", "compact"])
def test_conversions_on_failing_disks(way, operation, code, here):
    for first in (1, 2, 5):
        with observed(failing(operation, code, first=first)):
            try:
                WAYS[way](Path("new"))
            except CheckpointWriteError as error:
                assert os.strerror(code) in str(error)
                assert not Path("new").exists()
                if way == "convert":
                    assert os.listdir() == ["src"]
        if not Path("new").exists():
            WAYS[way](Path("new"))
        assert same("new") and sorted(os.listdir()) == ["new", "src"]
        shutil.rmtree("new")


@pytest.mark.parametrize("way", ["convert", "compact"])
def test_what_cannot_be_tidied_up_does_no_harm(way, here):
    with observed(failing("unlink", errno.EROFS)):
        WAYS[way](Path("new"))
    assert same("new")
    ck.prune(here, ck.KeepPolicy())
    assert sorted(os.listdir()) == ["new", "src"]


@pytest.mark.parametrize("operation", ["rename", "unlink", "rmdir", "fsync"])
def test_removals_on_failing_disks(operation, tmp_path, capfd):
    for step in (1, 2, 3):
        ck.save(step_path(tmp_path, step), tree(step), step=step)
    ck.scrub(tmp_path)
    policy = ck.KeepPolicy(last=1)
    with observed(failing(operation, errno.EROFS)):
        with pytest.raises(CheckpointRemovalError, match=r"could not be removed: Read-only"):
            ck.prune(tmp_path, policy)
        assert main(["ckpt", "prune", str(tmp_path), "--keep-last", "1"]) == ExitCode.INCOMPLETE
    left = ck.committed_steps(tmp_path)
    assert 3 in left
    for path in left.values():
        ck.verify(path).check()
    ck.prune(tmp_path, policy)
    assert list(ck.committed_steps(tmp_path)) == [3]


def test_hints_are_no_condition(tmp_path):
    """A read-only directory can be scrubbed; and a save that is done is done."""
    for step in (1, 2):
        ck.save(step_path(tmp_path, step), tree(step), step=step)
    with observed(failing("create", errno.EROFS)):
        assert all(report.ok for report in ck.scrub(tmp_path))

    def fails(operation: str, path: Path) -> None:
        if operation == "create" and ("LATEST" in path.name or "VERIFIED" in path.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with observed(fails), ck.Checkpointer(tmp_path, strict=True) as checkpointer:
        checkpointer.save(3, tree(3))
    assert checkpointer.steps() == [1, 2, 3]


# Neighbours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda path: os.rename(path, "elsewhere")])
def test_removed_while_it_is_loaded(gone, here, monkeypatch):
    read, tiles = _source.NativeSource.tile, []

    def tile(*arguments):
        tiles.append(arguments)
        if len(tiles) == 2:
            gone("src")
        return read(*arguments)

    monkeypatch.setattr(_source.NativeSource, "tile", tile)
    with pytest.raises(CheckpointError, match="was removed while it was read"):
        ck.load("src")


@pytest.mark.parametrize("name", ["changing", "changing.npz"])
def test_a_source_that_changes(name, here):

    def make(seed: int) -> None:
        arrays = {f"w{i}": np.random.default_rng(seed).random((300, 300)) for i in range(4)}
        if name.endswith("npz"):
            np.savez(name, **arrays)  # pyright: ignore[reportArgumentType]
        else:
            shutil.rmtree(name, ignore_errors=True)
            ck.save(name, arrays)

    make(0)
    conversion = prepare(Request(source=Path(name), target=Path("new"), from_layout="none"))
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 3:
            make(1)

    with pytest.raises(ConversionError, match="was changed while it was read"):
        run(conversion, progress)
    assert sorted(os.listdir()) == [name, "src"]


SAVER = """
import sys
import numpy as np
import autoshard.checkpoint as ck
from autoshard.errors import CheckpointExistsError

sys.stdin.readline()
try:
    ck.save(sys.argv[1], {"w": np.full((1500, 1500), int(sys.argv[2]), np.float32)})
    print("saved")
except CheckpointExistsError:
    print("was there")
"""


def test_two_runs_save_one_step(tmp_path):
    """They are no cluster and know nothing of each other: one wins, the other is told."""
    path = tmp_path / "step_00000001"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path), str(i)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in started]
    said = [stdout.strip() for stdout, _ in outputs]
    assert sorted(said) == ["saved", "was there"], outputs
    ck.verify(path).check()
    assert (ck.load(path)["w"] == said.index("saved")).all()
    assert os.listdir(tmp_path) == [path.name]


def test_a_clock_that_goes_back(tmp_path, monkeypatch):
    now = time.time
    policy = ck.SavePolicy(every_minutes=10)
    with ck.Checkpointer(tmp_path, save=policy, background=False) as checkpointer:
        checkpointer.save(1, tree(1))
        monkeypatch.setattr(time, "time", lambda: now() - 1e6)
        assert not checkpointer.should_save(2)
        checkpointer.save(2, tree(2))
        monkeypatch.setattr(time, "time", lambda: now() + 1e6)
        assert not checkpointer.should_save(3)
    assert checkpointer.latest() == step_path(tmp_path, 2)
