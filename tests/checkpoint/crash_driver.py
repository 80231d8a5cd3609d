"""Kill savers at chosen moments and look at what is left.

A child is forked off for every moment: it saves, and kills itself when the file system is about to
change for the n-th time. What was not synced by then may be lost too: a second run empties it. This
runs as a program of its own, because it forks, and JAX's devices must not have started.

python crash_driver.py SCENARIO sample|every|random
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import autoshard.checkpoint as ck
from autoshard.checkpoint import _tiles
from autoshard.checkpoint._directory import committed_steps, step_path
from autoshard.checkpoint._io import observed
from autoshard.checkpoint.layouts import convert as converter

SAMPLE = 12  # moments per scenario in the quick tests


def tree(step: int) -> dict[str, object]:
    rng = np.random.default_rng(step)
    return {"w": rng.random((64, 32)), "b": {"c": rng.random(7)}, "step": step, "none": None}


def save(directory: Path) -> None:
    ck.save(step_path(directory, 3), tree(3), step=3)


def save_async(directory: Path) -> None:
    ck.save_async(step_path(directory, 3), tree(3), step=3).result()


def checkpointer(directory: Path) -> None:
    with ck.Checkpointer(directory, keep=ck.KeepPolicy(last=1), strict=True) as found:
        found.save(3, tree(3))


def prune(directory: Path) -> None:
    ck.prune(directory, ck.KeepPolicy(last=1))


def convert(directory: Path) -> None:
    """To another mesh, by the converter of the command line."""
    source, target = step_path(directory, 2), step_path(directory, 3)
    converter.convert(source, target, mesh={"data": 1, "model": 8}, budget_bytes=16 << 20)


def compact(directory: Path) -> None:
    ck.compact(step_path(directory, 2), step_path(directory, 3))


SCENARIOS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (save, save_async, checkpointer, prune, convert, compact)
}

RESUMED = ("convert", "compact")


class Unsynced:
    """What a power loss at this moment would take: contents that were not synced."""

    def __init__(self) -> None:
        self.contents: set[Path] = set()

    def see(self, operation: str, path: Path) -> None:
        if operation in ("create", "write"):
            self.contents.add(path)
        if operation == "fsync":
            self.contents.discard(path)

    def lose(self) -> None:
        """Empty these files. Their names are kept, which is harder to meet."""
        for path in self.contents:
            if path.exists():
                os.truncate(path, 0)


def events(run: Callable[[Path], None], directory: Path) -> list[tuple[str, str]]:
    """What a scenario does to the file system, in a copy of the directory."""
    copy = directory.with_name("rehearsal")
    shutil.copytree(directory, copy)
    found: list[tuple[str, str]] = []
    with observed(lambda operation, path: found.append((operation, path.name))):
        run(copy)
    return found


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def die_at(run: Callable[[Path], None], directory: Path, number: int, *, power: bool) -> None:
    """Run in a child that is gone before the event of this number."""

    def work() -> None:
        unsynced, count = Unsynced(), [0]

        def watch(operation: str, path: Path) -> None:
            if count[0] == number:
                if power:
                    unsynced.lose()
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            unsynced.see(operation, path)

        with observed(watch):
            run(directory)

    os.waitpid(in_child(work), 0)


def check(directory: Path, scenario: str) -> None:
    """Nothing committed is lost, nothing partial is visible, and the next save works."""
    steps = committed_steps(directory)
    if scenario == "prune":
        assert 2 in steps
    elif scenario == "checkpointer":  # it keeps one
        assert 2 in steps or 3 in steps
    else:
        assert {1, 2} <= set(steps)
    for step, path in steps.items():
        ck.verify(path).check()
        wanted = tree(2 if scenario in RESUMED and step == 3 else step)
        np.testing.assert_array_equal(ck.load(path)["w"], wanted["w"])
    newest = ck.latest(directory)
    assert newest is not None and newest == steps[max(steps)]
    for path in directory.iterdir():  # what has the name of a step is one
        if path.name.startswith("step_") and len(path.name) == 13:
            assert path in steps.values(), path
    if scenario in RESUMED and 3 not in steps:
        SCENARIOS[scenario](directory)  # the same again goes on
        ck.verify(step_path(directory, 3)).check()
        assert ck.metadata(steps[2]).digest == ck.metadata(step_path(directory, 3)).digest
        ck.prune(directory, ck.KeepPolicy(last=9))
        assert not [p for p in directory.iterdir() if "autoshard-" in p.name]
        return
    ck.Checkpointer(directory, background=False, strict=True).save(9, tree(9))
    assert {9, max(steps)} <= set(committed_steps(directory))
    assert not [p for p in directory.iterdir() if "autoshard-t" in p.name and p.is_dir()]


def moments(found: list[tuple[str, str]], everything: bool) -> list[int]:
    if everything:
        return list(range(len(found) + 1))
    spread = random.Random(0).sample(range(len(found)), min(SAMPLE - 4, len(found)))
    commit = [i for i, (operation, _) in enumerate(found) if operation == "rename"]
    around = [i + d for i in commit[:1] for d in (0, 1)]
    return sorted({0, len(found), *around, *spread})


def at_moments(scenario: str, directory: Path, everything: bool) -> int:
    run = SCENARIOS[scenario]
    found = events(run, directory)
    kinds = {operation for operation, _ in found}
    wanted = {"unlink", "rmdir"} if scenario == "prune" else {"create", "write", "mkdir"}
    assert {"rename", "fsync"} | wanted <= kinds, kinds
    chosen = moments(found, everything)
    for number in chosen:
        for power in (False, True):
            here = directory.with_name(f"{number}-{power}")
            shutil.copytree(directory, here)
            die_at(run, here, number, power=power)
            check(here, scenario)
            shutil.rmtree(here)
    return len(chosen)


def at_random_times(scenario: str, directory: Path, times: int = 50) -> int:
    """Killed from outside, whatever the process is doing."""
    run, rng = SCENARIOS[scenario], random.Random(scenario)
    shutil.copytree(directory, directory.with_name("rehearsal"))
    start = time.perf_counter()
    os.waitpid(in_child(lambda: run(directory.with_name("rehearsal"))), 0)
    took_s = time.perf_counter() - start
    for number in range(times):
        here = directory.with_name(str(number))
        shutil.copytree(directory, here)
        child = in_child(lambda here=here: run(here))
        time.sleep(rng.random() * took_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(here, scenario)
        shutil.rmtree(here)
    return times


def main() -> None:
    warnings.filterwarnings("ignore", "os.fork")  # no device has started
    scenarios, how = sys.argv[1].split(","), sys.argv[2]
    _tiles.TILE_BYTES, _tiles.FILE_BYTES = 1 << 10, 4 << 10  # many of them, in little time
    memory = Path("/dev/shm")
    for scenario in scenarios:
        # What syncing costs is not the question here.
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            directory = Path(folder, "run")
            for step in (1, 2):
                ck.save(step_path(directory, step), tree(step), step=step)
            if how == "random":
                count = at_random_times(scenario, directory)
            else:
                count = at_moments(scenario, directory, how == "every")
        print(f"{scenario}: {count} moments")


if __name__ == "__main__":
    main()
