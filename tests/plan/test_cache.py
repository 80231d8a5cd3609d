"""Plans kept between processes."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from autoshard.errors import PlanCacheWarning
from autoshard.plan import MeshShape, cached_plan
from autoshard.recipes import plan_by_recipe

MESH = MeshShape(("data",), (8,))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSHARD_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Planner:
    """Plans a program and counts how often."""

    def __init__(self):
        self.count = 0

    def __call__(self, ruled, mesh=MESH, hardware="cpu", **options):
        def make():
            self.count += 1
            return plan_by_recipe(ruled, mesh, options.get("strategy", "dp"))

        return cached_plan(ruled, mesh, make, hardware=hardware, options=options)


@pytest.fixture
def plan_of():
    return Planner()


def step(w, x):
    return w - 0.1 * (x.T @ (x @ w)), (x @ w).sum()


def test_a_plan_is_made_once(ruled, folder, plan_of):
    program = ruled(step, (16, 8), (32, 16))
    first = plan_of(program)
    again = plan_of(ruled(step, (16, 8), (32, 16)))
    assert (plan_of.count, again) == (1, first)
    assert len(list((folder / "plans").iterdir())) == 1


def test_nothing_is_kept_by_default(ruled, tmp_path, monkeypatch, plan_of):
    monkeypatch.setenv("AUTOSHARD_CACHE", "")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        plan_of(ruled(step, (16, 8), (32, 16)))
    assert plan_of.count == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"mesh": MeshShape(("model",), (8,))},
        {"mesh": MeshShape(("data",), (4,))},
        {"hardware": "TPU v5e"},
        {"strategy": "replicate"},
        {"strategy": "dp", "pins": {"w": "P('data')"}},
    ],
)
def test_what_a_plan_follows_from_tells_plans_apart(ruled, folder, plan_of, other):
    program = ruled(step, (16, 8), (32, 16))
    plan_of(program, strategy="dp")
    plan_of(program, **{"strategy": "dp", **other})
    assert plan_of.count == 2
    plan_of(program, **{"strategy": "dp", **other})
    assert plan_of.count == 2


def test_another_shape_or_name_is_another_plan(ruled, folder, plan_of):
    plan_of(ruled(step, (16, 8), (32, 16)))
    plan_of(ruled(step, (16, 16), (32, 16)))
    plan_of(ruled(lambda kernel, x: step(kernel, x), (16, 8), (32, 16)))
    assert plan_of.count == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "{}",
        lambda text: text.replace('"spec": ["data"', '"spec": ["rows"'),
        lambda text: text.replace('"digest": "', '"digest": "0'),
        lambda text: text.replace('"schema_version": 1', '"schema_version": 99'),
    ],
)
def test_a_damaged_plan_is_said_and_replaced(ruled, folder, plan_of, damage):
    program = ruled(step, (16, 8), (32, 16))
    plan = plan_of(program)
    (file,) = (folder / "plans").iterdir()
    good = file.read_text()
    assert damage(good) != good
    file.write_text(damage(good))
    with pytest.warns(PlanCacheWarning, match="not used and will be replaced"):
        assert plan_of(program) == plan
    assert file.read_text() == good
    assert plan_of(program) == plan
    assert plan_of.count == 2


def test_a_folder_that_cannot_be_written_is_said(ruled, tmp_path, monkeypatch, plan_of):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOSHARD_CACHE", str(tmp_path / "file"))
    with pytest.warns(PlanCacheWarning, match="not kept"):
        assert plan_of(ruled(step, (16, 8), (32, 16))).strategy == "dp"


def test_the_folder_may_be_in_the_home(ruled, tmp_path, monkeypatch, plan_of):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AUTOSHARD_CACHE", "~/kept")
    plan_of(ruled(step, (16, 8), (32, 16)))
    assert len(list((tmp_path / "kept" / "plans").iterdir())) == 1


WORKER = """
import sys, time, warnings
import jax.numpy as jnp
from pathlib import Path
from autoshard.plan import MeshShape, cached_plan
from autoshard.recipes import plan_by_recipe
from autoshard.rules import with_rules
from autoshard.tracing import trace

warnings.simplefilter("error")
mesh = MeshShape(("data",), (8,))

def step(w, x):
    return w - 0.1 * (x.T @ (x @ w)), (x @ w).sum()

programs = [with_rules(trace(step, (jnp.ones((16, n)), jnp.ones((32, 16))))) for n in (8, 16, 24)]
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
made = 0
for turn in range(40):
    for ruled in programs:
        def make():
            global made
            made += 1
            return plan_by_recipe(ruled, mesh, "zero3")
        plan = cached_plan(ruled, mesh, make, hardware="cpu", options={"turn": turn // 4})
        assert plan == plan_by_recipe(ruled, mesh, "zero3")
print(made)
"""


@pytest.mark.multiprocess
def test_processes_that_write_at_once_do_not_mix(folder, tmp_path):
    """Four processes read and write the same thirty plans; none sees half of one."""
    ready = [tmp_path / f"ready{i}" for i in range(4)]
    go = tmp_path / "go"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), str(go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "AUTOSHARD_CACHE": str(folder)},
        )
        for path in ready
    ]
    try:
        deadline = time.monotonic() + 120
        while not all(path.exists() for path in ready) and time.monotonic() < deadline:
            time.sleep(0.01)
        go.touch()
        outputs = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, stderr) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, stderr[-3000:]
    made = [int(stdout) for stdout, _ in outputs]
    assert 30 <= sum(made) < 4 * 120
    kept = list((folder / "plans").iterdir())
    assert len(kept) == 30
    assert not [path for path in kept if path.suffix != ".json"]


def test_the_decorator_uses_it(folder):
    import jax.numpy as jnp

    import autoshard

    def planned():
        return autoshard.parallelize(step, strategy="dp")

    w, x = jnp.ones((16, 8)), jnp.ones((32, 16))
    plan = planned().plan(w, x)
    assert len(list(Path(folder, "plans").iterdir())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert planned().plan(w, x) == plan
