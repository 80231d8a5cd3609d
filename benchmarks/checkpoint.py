"""Checkpoints against stock orbax on this machine: bytes, memory, and ratios of time.

python benchmarks/checkpoint.py [--gigabytes 1.0] [--only reshard,...]

Prints one JSON object. Times are of one run on a machine that may be shared: read the ratios, which
come from the same run. Memory is the peak resident set of a process of its own, sampled, above what
it had before; what the result itself takes is subtracted where that is said.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 4096  # of each square float32 array: 64 MiB
BUDGET = 128 << 20
STALL_TURNS = 7
# Steps without a save before each save: about as many as run beside one.
PLAIN_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--folder", default=None)
    parser.add_argument("--child", nargs="*")
    options = parser.parse_args()
    if options.child:
        name, *arguments = options.child
        print("RESULT " + json.dumps(CHILDREN[name](*arguments)), flush=True)
        return
    unknown = sorted({*options.only.split(",")} - {*PARTS})
    if unknown:
        parser.error(f"--only {','.join(unknown)}: choose from {', '.join(PARTS)}")
    arrays = max(1, round(options.gigabytes * 1e9 / (4 * SIDE * SIDE)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found: dict[str, Any] = {"arrays": arrays, "bytes": arrays * 4 * SIDE * SIDE}
        for name in options.only.split(","):
            found[name] = PARTS[name](Path(folder), arrays)
    print(json.dumps(found, indent=2))


# Parts ------------------------------------------------------------------------------------------


def save_and_load(folder: Path, arrays: int) -> dict[str, Any]:
    """Save and load, and the same by orbax, in alternation."""
    return child("save_and_load", folder / "sl", arrays, devices=8)


def stall(folder: Path, arrays: int) -> dict[str, Any]:
    """How long a background save keeps training from going on."""
    return child("stall", folder / "stall", arrays, devices=8)


def reshard(folder: Path, arrays: int) -> dict[str, Any]:
    """Saved by rows, loaded by columns, by several processes: bytes that each reads."""
    path = folder / "rows"
    child("make", path, arrays, devices=8)
    found: dict[str, Any] = {}
    for processes in (1, 2, 4, 8):
        port = free_port()
        jobs = [
            start("columns", path, processes, i, port, devices=8 // processes)
            for i in range(processes)
        ]
        rows = [finish(job) for job in jobs]
        found[str(processes)] = {
            "read_per_needed": max(row["read"] / row["needed"] for row in rows),
            "extra_bytes_above_result": max(row["extra"] for row in rows),
            "budget_bytes": BUDGET,
            "time_s": max(row["time_s"] for row in rows),
        }
    return found


def convert(folder: Path, arrays: int) -> dict[str, Any]:
    """Written again piece by piece; then one four times as large."""
    found: dict[str, Any] = {}
    for name, count in {"1x": arrays, "4x": 4 * arrays}.items():
        child("make", folder / f"c{name}", count, devices=8)
        found[name] = child("convert", folder / f"c{name}", folder / f"d{name}", devices=1)
        shutil.rmtree(folder / f"d{name}")
        if name == "1x":
            found["orbax"] = child("orbax_rewrite", folder / f"c{name}", folder / "o", devices=1)
            shutil.rmtree(folder / "o")
        shutil.rmtree(folder / f"c{name}")
    found["peak_growth"] = found["4x"]["peak"] / found["1x"]["peak"] - 1
    found["time_ratio_to_orbax"] = found["1x"]["time_s"] / found["orbax"]["time_s"]
    return found


PARTS: dict[str, Callable[[Path, int], Any]] = {
    f.__name__: f for f in (save_and_load, stall, reshard, convert)
}

# What runs in processes of their own ------------------------------------------------------------


class Peak:
    """The peak resident set while a block runs, above what it was before."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._stop = threading.Event()
        self.bytes = self.start = 0

    def __enter__(self) -> "Peak":
        self.start = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self.start)


def tree(arrays: int, spec: tuple[Any, ...]) -> Any:
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    n = len(jax.devices())
    mesh = jax.make_mesh((n,), ("d",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))

    def make(i: int) -> Any:
        def rows(index: Any) -> Any:
            shape = tuple(len(range(*s.indices(SIDE))) for s in index)
            return np.random.default_rng([i, index[0].start or 0]).random(shape, np.float32)

        return jax.make_array_from_callback((SIDE, SIDE), sharding, rows)

    return {f"w{i}": make(i) for i in range(int(arrays))}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    import jax

    start_s = time.perf_counter()
    result = jax.block_until_ready(work())
    return time.perf_counter() - start_s, result


def run_make(path: str, arrays: str) -> dict[str, Any]:
    import autoshard.checkpoint as ck

    ck.save(path, tree(int(arrays), ("d",)))
    return {}


def run_save_and_load(path: str, arrays: str) -> dict[str, Any]:
    import jax
    import orbax.checkpoint.experimental.v1 as orbax

    import autoshard.checkpoint as ck

    state = tree(int(arrays), ("d",))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    times: dict[str, list[float]] = {"save": [], "load": [], "orbax_save": [], "orbax_load": []}
    context = orbax.Context()
    context.array.saving.use_compression = False
    for turn in range(3):
        times["save"].append(timed(lambda t=turn: ck.save(f"{path}/a{t}", state) and None)[0])
        with context:
            times["orbax_save"].append(timed(lambda t=turn: orbax.save(f"{path}/o{t}", state))[0])
        times["load"].append(timed(lambda t=turn: ck.load(f"{path}/a{t}", like))[0])
        times["orbax_load"].append(timed(lambda t=turn: orbax.load(f"{path}/o{t}", like))[0])
    verify_s, report = timed(lambda: ck.verify(f"{path}/a0"))
    best = {name: min(found) for name, found in times.items()}
    shutil.rmtree(path)
    return {
        "best_s": best,
        "save_to_orbax": best["save"] / best["orbax_save"],
        "load_to_orbax": best["load"] / best["orbax_load"],
        "verify_s": verify_s,
        "verified": report.ok,
    }


def p95(times_s: list[float]) -> float:
    return sorted(times_s)[int(0.95 * len(times_s))]


def run_stall(path: str, arrays: str) -> dict[str, Any]:
    """What a save in the background takes from training, by turns with orbax.

    `blocked` is the time until the step after the save is done, above that of a step without a
    save. `steps` are those while the save goes on, against as many without one: the median against
    the median, the 95th percentile against the 95th percentile.
    """
    import jax
    import orbax.checkpoint.experimental.v1 as orbax

    import autoshard.checkpoint as ck

    state = tree(int(arrays), ("d",))
    gigabytes = int(arrays) * 4 * SIDE * SIDE / 1e9
    step = jax.jit(lambda t: jax.tree.map(lambda x: x * 0.999 + 0.001, t), donate_argnums=0)
    context = orbax.Context()
    context.array.saving.use_compression = False

    def begin(name: str, place: str) -> Any:
        if name == "autoshard":
            return ck.save_async(place, state)
        with context:
            return orbax.save_async(place, state)

    names = ("autoshard", "orbax")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(STALL_TURNS + 1):
        for name in names if turn % 2 else reversed(names):
            plain: list[float] = []
            for _ in range(PLAIN_STEPS):
                step_s, state = timed(lambda s=state: step(s))
                plain.append(step_s)
            plain_s = statistics.median(plain)
            start_s = time.perf_counter()
            pending = begin(name, f"{path}/{name}{turn}")
            call_s = time.perf_counter() - start_s
            state = jax.block_until_ready(step(state))
            blocked_s = time.perf_counter() - start_s - plain_s
            waiting = threading.Thread(target=pending.result)
            waiting.start()
            during: list[float] = []
            while waiting.is_alive():
                step_s, state = timed(lambda s=state: step(s))
                during.append(step_s)
            row = {
                "call_s_per_GB": call_s / gigabytes,
                "blocked_s_per_GB": blocked_s / gigabytes,
                "saved_after_s_per_GB": (time.perf_counter() - start_s) / gigabytes,
                "median_step": statistics.median(during) / plain_s,
                "p95_step": p95(during) / p95(plain),
            }
            if turn:  # the first of each warms up
                rows[name].append(row)
            shutil.rmtree(f"{path}/{name}{turn}")
            os.sync()  # what one has written is not the other's burden
    shutil.rmtree(path, ignore_errors=True)
    found: dict[str, Any] = {"turns": STALL_TURNS}
    for measure in rows["autoshard"][0]:
        by_name = {name: sorted(row[measure] for row in rows[name]) for name in names}
        median = {name: statistics.median(values) for name, values in by_name.items()}
        found[measure] = {
            **{
                name: {"median": median[name], "min": values[0], "max": values[-1]}
                for name, values in by_name.items()
            },
            "ratio_of_medians": median["autoshard"] / max(1e-9, median["orbax"]),
        }
    return found


def run_columns(path: str, processes: str, index: str, port: str) -> dict[str, Any]:
    import jax

    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(index))
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import autoshard.checkpoint as ck
    from autoshard.checkpoint import _load

    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "d"))
    leaves = ck.metadata(path).leaves
    target = {
        leaf.path: jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=sharding)
        for leaf in leaves
    }
    sources: list[Any] = []
    make = _load.NativeSource
    _load.NativeSource = lambda p: sources.append(make(p)) or sources[-1]  # to ask what it read
    with Peak() as peak:
        time_s, found = timed(lambda: ck.load(path, target, budget_bytes=BUDGET))
    needed = sum(s.data.nbytes for x in found.values() for s in x.addressable_shards)
    return {
        "read": sources[0].bytes_read,
        "needed": needed,
        "extra": peak.bytes - needed,
        "time_s": time_s,
    }


def run_convert(source: str, target: str) -> dict[str, Any]:
    import autoshard.checkpoint as ck

    with Peak() as peak:
        time_s, digest = timed(lambda: ck.compact(source, target))
    same = digest == ck.metadata(source).digest
    written = sum(p.stat().st_size for p in Path(target).rglob("*") if p.is_file())
    nbytes = ck.metadata(target).nbytes
    return {
        "time_s": time_s,
        "s_per_GB": time_s / (nbytes / 1e9),
        "extra": peak.bytes,
        "peak": peak.start + peak.bytes,
        "same_digest": same,
        "written_per_byte": written / nbytes,
    }


def run_orbax_rewrite(source: str, target: str) -> dict[str, Any]:
    import orbax.checkpoint.experimental.v1 as orbax

    context = orbax.Context()
    context.array.saving.use_compression = False

    def rewrite() -> None:
        with context:
            orbax.save(target, orbax.load(source))

    with Peak() as peak:
        time_s, _ = timed(rewrite)
    return {"time_s": time_s, "extra": peak.bytes}


CHILDREN: dict[str, Callable[..., Any]] = {
    "make": run_make,
    "save_and_load": run_save_and_load,
    "stall": run_stall,
    "columns": run_columns,
    "convert": run_convert,
    "orbax_rewrite": run_orbax_rewrite,
}


def start(name: str, *arguments: object, devices: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, __file__, "--child", name, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(job: "subprocess.Popen[str]") -> dict[str, Any]:
    stdout, stderr = job.communicate(timeout=1800)
    lines = [line for line in stdout.splitlines() if line.startswith("RESULT ")]
    if job.returncode or not lines:
        raise SystemExit(stderr[-4000:])
    return json.loads(lines[-1].removeprefix("RESULT "))


def child(name: str, *arguments: object, devices: int) -> dict[str, Any]:
    return finish(start(name, *arguments, devices=devices))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
