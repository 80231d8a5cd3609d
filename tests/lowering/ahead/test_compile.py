"""Compiling in another process gives what compiling here gives, and outlives its accidents."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.errors import (
    CompilerError,
    CompilerMissingError,
    ExitCode,
    ExportError,
    PlanMismatchError,
    TopologyError,
)
from autoshard.lowering import device_mesh, lower_plan
from autoshard.lowering.ahead import Limits, compile_ahead, trial_compile
from autoshard.lowering.ahead import _compile as ahead
from autoshard.lowering.ahead import _process as process
from autoshard.lowering.ahead._compilation import find_shortage
from autoshard.plan import MeshShape
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace

MESH = MeshShape(("data", "model"), (2, 4))


def step(params, batch):
    def loss(p):
        hidden = jax.nn.relu(batch["x"] @ p["up"] + p["bias"][None])
        return jnp.mean((hidden @ p["down"] - batch["y"]) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def planned(function=step, args=None, mesh=MESH, strategy="zero3+tensor"):
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    if args is None:
        params = {"up": struct(16, 64), "bias": struct(64), "down": struct(64, 16)}
        args = (params, {"x": struct(32, 16), "y": struct(32, 16)})
    program = trace(function, args)
    return program, plan_by_recipe(program, mesh, strategy)


def test_the_cpu_compiler_says_the_same_here_and_there():
    program, plan = planned()
    there = compile_ahead(program, plan, "cpu:8", text=True)
    avals = [program.argument_value(leaf).aval for leaf in program.arguments]
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
    here = lower_plan(program, plan, device_mesh(MESH), donate=True).lower(*structs).compile()
    mine, theirs = here.memory_analysis(), there.memory_analysis()
    for name in ("argument", "output", "alias", "temp"):
        field = f"{name}_size_in_bytes"
        assert getattr(theirs, field) == getattr(mine, field), field
    assert there.peak_bytes > 0 and there.fits() and not there.fits(there.peak_bytes - 1)
    for kind in ("all-gather(", "all-reduce(", "reduce-scatter("):
        assert there.as_text().count(kind) == here.as_text().count(kind)
    assert there.shortage is None and there.device_kind == "cpu"


def test_a_topology_of_another_size_is_refused():
    with pytest.raises(PlanMismatchError, match=r"model=4 in the plan, 16 devices in cpu:16"):
        compile_ahead(*planned(), "cpu:16")


def test_more_devices_than_this_process_has():
    mesh = MeshShape(("data", "model"), (4, 8))
    there = compile_ahead(*planned(mesh=mesh), "cpu:32")
    assert there.statistics["argument_size_in_bytes"] > 0
    with pytest.raises(CompilerError, match="no optimized HLO"):
        there.as_text()


def test_an_abort_of_the_compiler_is_an_error_here(monkeypatch):
    """The signal of an abort, from a compiler that checks something and dies."""
    program, plan = planned()
    monkeypatch.setattr(
        process.sys, "executable", os.path.join(os.path.dirname(__file__), "aborting_compiler.py")
    )
    with pytest.raises(CompilerError) as caught:
        trial_compile(program, plan)
    assert caught.value.exit_code == ExitCode.COMPILER_FAILED
    assert "SIGABRT" in str(caught.value)
    assert "Check failed: groups % shards == 0" in str(caught.value)


def wait_gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


SLEEPER = """#!{python}
import os, subprocess, sys, time
child = subprocess.Popen([{python!r}, "-c", "import time; time.sleep(600)"])
open({note!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
{body}
"""


def fake_compiler(tmp_path, monkeypatch, body):
    note = tmp_path / "pids"
    path = tmp_path / "compiler"
    path.write_text(SLEEPER.format(python=sys.executable, note=str(note), body=body))
    path.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(path))
    return note


@pytest.mark.parametrize(
    ("body", "limits", "message"),
    [
        ("time.sleep(600)", Limits(timeout_s=1.5), "not done after 1.5 s"),
        (
            "hoard = b'x' * (400 * 2**20); time.sleep(600)",
            Limits(timeout_s=60, memory_bytes=200 * 2**20),
            "more than 0.20 GiB",
        ),
    ],
    ids=["time", "memory"],
)
def test_limits_end_the_compiler_and_all_that_it_started(
    tmp_path, monkeypatch, body, limits, message
):
    note = fake_compiler(tmp_path, monkeypatch, body)
    program, plan = planned()
    with pytest.raises(CompilerError) as caught:
        trial_compile(program, plan, limits=limits)
    assert message in str(caught.value)
    assert caught.value.exit_code == ExitCode.COMPILER_FAILED
    for pid in map(int, note.read_text().split()):
        assert wait_gone(pid)


def test_an_interrupt_ends_the_compiler(tmp_path, monkeypatch):
    note = fake_compiler(tmp_path, monkeypatch, "time.sleep(600)")
    program, plan = planned()

    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            trial_compile(program, plan)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    for pid in map(int, note.read_text().split()):
        assert wait_gone(pid)


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compile_ahead(*planned(), "cpu:8")
    with pytest.raises(CompilerError):
        fake_compiler(tmp_path, monkeypatch, "sys.exit(3)")
        compile_ahead(*planned(), "cpu:8")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("autoshard-ahead-")]


@pytest.mark.parametrize(
    ("topology", "module", "extra"),
    [("v5e:2x4", "libtpu", "tpu"), ("h100:8", "jax_cuda12_plugin", "cuda12")],
)
def test_a_compiler_that_is_not_installed(topology, module, extra, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        ahead.importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    with pytest.raises(CompilerMissingError, match=rf"pip install 'autoshard\[{extra}\]'"):
        compile_ahead(*planned(), topology)


def test_a_callback_cannot_cross():
    def talks(w, x):
        y = jax.pure_callback(np.sin, jax.ShapeDtypeStruct((8, 8), jnp.float32), x @ w)
        return w - y, jnp.sum(y)

    struct = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    with pytest.raises(ExportError, match=r"pure_callback at \S*test_compile.py:\d+"):
        trial_compile(*planned(talks, (struct, struct), MeshShape(("data",), (8,)), "dp"))


def test_debug_prints_stay_behind():
    def chatty(w, x):
        def layer(x, _):
            jax.debug.print("x {}", x.sum())
            return jnp.tanh(x @ w), None

        y, _ = jax.lax.scan(layer, x, length=2)
        jax.debug.print("y {}", y)
        return w - y.sum(), y.sum()

    struct = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    there = trial_compile(*planned(chatty, (struct, struct), MeshShape(("data",), (8,)), "dp"))
    assert there.peak_bytes > 0


def test_keys_and_small_types_cross():
    def noisy(w, key, x):
        noise = jax.random.normal(jax.random.split(key)[0], x.shape, jnp.bfloat16)
        y = (x + noise) @ w
        return w - jnp.mean(y).astype(w.dtype), jnp.sum(y)

    args = (
        jax.ShapeDtypeStruct((8, 8), jnp.bfloat16),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((16, 8), jnp.bfloat16),
    )
    there = trial_compile(*planned(noisy, args, MeshShape(("data",), (8,)), "dp"))
    assert there.peak_bytes > 0


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (61.68G) exceeds available HBM (15.75G). HLO "
            "module: step.",
            (61.68, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.56G of 15.75G hbm. "
            "Exceeded hbm capacity by 8.81G.",
            (24.56, 15.75),
        ),
        ("RESOURCE_EXHAUSTED: something else", None),
        ("INTERNAL: 3G of 2G", None),
    ],
)
def test_the_words_of_a_compiler_that_runs_out(message, sizes):
    shortage = find_shortage(message)
    if sizes is None:
        assert shortage is None
    else:
        assert shortage is not None
        found = (shortage.needed_bytes / 2**30, shortage.available_bytes / 2**30)
        assert found == pytest.approx(sizes)


def test_the_environment_of_a_compiler(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_force_host_platform_device_count=8 --b=2")
    there = process.compiler_environment("tpu", 64)
    assert there["XLA_FLAGS"] == "--a=1 --b=2"
    assert there["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert "device_count=64" in process.compiler_environment("cpu", 64)["XLA_FLAGS"]


def libtpu():
    return importlib.util.find_spec("libtpu") is not None


needs_libtpu = pytest.mark.skipif(not libtpu(), reason="needs the extra [tpu]")


@pytest.mark.slow
@pytest.mark.tpu_aot
@needs_libtpu
def test_the_tpu_compiler_says_the_same_here_and_there(tmp_path):
    """As in a process that loads libtpu itself and compiles the plan on its devices."""
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax
from jax.experimental import topologies
import test_compile as t
from autoshard.lowering import device_mesh, lower_plan
program, plan = t.planned()
mesh = device_mesh(t.MESH, topologies.get_topology_desc("v5e:2x4", "tpu").devices)
avals = [program.argument_value(leaf).aval for leaf in program.arguments]
structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
stats = lower_plan(program, plan, mesh, donate=True).lower(*structs).compile().memory_analysis()
print(stats.peak_memory_in_bytes, stats.temp_size_in_bytes)
"""
    environment = process.compiler_environment("tpu", 8)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    there = compile_ahead(*planned(), "v5e:2x4")
    assert there.device_kind == "TPU v5 lite"
    found = f"{there.peak_bytes} {there.statistics['temp_size_in_bytes']}"
    assert found == done.stdout.split("\n")[-2]


@pytest.mark.slow
@pytest.mark.tpu_aot
@needs_libtpu
def test_slices_and_shapes_that_libtpu_does_not_have():
    mesh = MeshShape(("data", "model"), (8, 4))
    assert compile_ahead(*planned(mesh=mesh), "v5e:4x4*2").statistics
    with pytest.raises(TopologyError, match="its compiler refuses it"):
        compile_ahead(
            *planned(mesh=MeshShape(("data", "model"), (3, 5)), strategy="replicate"), "v5e:3x5"
        )


@pytest.mark.slow
@pytest.mark.tpu_aot
@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "sizes"),
    [
        ("v2:2x2", (2, 4)),
        ("v4:2x2x2", (4, 4)),
        ("v5p:2x2x4", (2, 8)),
        ("v6e:2x4", (4, 2)),
        ("tpu7x:2x2x1", (2, 4)),
        ("v5e:2x2*4", (4, 4)),
        ("v5e:2x2*4", (8, 2)),
    ],
)
def test_meshes_on_tpus(topology, sizes):
    mesh = MeshShape(("data", "model"), sizes)
    there = compile_ahead(*planned(mesh=mesh, strategy="dp@data"), topology)
    assert there.device_kind.startswith("TPU") and there.peak_bytes > 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs the extra [cuda12]"
)
@pytest.mark.parametrize("topology", ["h100:8", "h100:1x8", "a100:8", "h200:8"])
def test_gpus(topology):
    there = compile_ahead(*planned(), topology, text=True)
    assert there.device_kind.startswith("NVIDIA")
    assert 0 < there.peak_bytes < 2**20
    assert "all-gather" in there.as_text()
