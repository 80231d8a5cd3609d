"""Traces and plans the train step of an unrolled Llama-2-7B; prints one JSON object.

    python benchmarks/tracing.py [--model llama-2-7b] [--batch 8] [--seq 2048]

The step is the loss, its gradient and the AdamW update, on abstract values: nothing of the model
is allocated. Reported are the seconds for JAX's own `make_jaxpr`, for a `Program` (which contains
such a `make_jaxpr`), for the rules of its ops and for a plan by each strategy, the size of the
program, and the peak resident memory of a fresh process up to the program and up to the end.
`make_jaxpr` comes last, after JAX's caches are emptied. `cpu_s` is the processor time of all that
is in `planning_s`: on a busy machine it is the better figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

MESHES = {"zero3": "data=8", "tensor": "model=8", "zero3+tensor": "data=2,model=4"}
DEVICES = 8

LIMITS = {"program_s": 10.0, "peak_rss_program_gib": 1.5, "planning_s": 20.0}
"""What must hold on one quiet core; `planning_s`: program, rules and the slowest strategy."""


def main() -> int:
    """Runs the benchmark; exit status 1 when a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="llama-2-7b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--strategy", action="append", choices=MESHES, help="default: all of them")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    answer = measure(arguments.model, arguments.batch, arguments.seq, arguments.strategy or MESHES)
    print(json.dumps(answer, indent=1))
    return 0 if all(answer["holds"].values()) else 1


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its wall-clock seconds."""
    started_s = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started_s


def peak_rss_gib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def measure(model: str, batch: int, seq: int, strategies: Iterable[str]) -> dict[str, Any]:
    """Trace and plan one model."""
    import jax
    import optax

    from autoshard import models
    from autoshard.plan import parse_mesh
    from autoshard.recipes import plan_by_recipe
    from autoshard.rules import with_rules
    from autoshard.tracing import trace

    spec = models.get(model, scan_layers=False)
    training = models.make_training(spec, optax.adamw(1e-3))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(training.create_state, key)
    step_args = (state, spec.example_batch(batch, seq))
    imported_gib = peak_rss_gib()

    cpu_started_s = time.process_time()
    program, program_s = timed(lambda: trace(training.train_step, step_args))
    program_gib = peak_rss_gib()
    ruled, rules_s = timed(lambda: with_rules(program))
    plans_s: dict[str, float] = {}
    for name in strategies:
        mesh = parse_mesh(MESHES[name], DEVICES)
        _, plans_s[name] = timed(partial(plan_by_recipe, ruled, mesh, name))
    cpu_s = time.process_time() - cpu_started_s
    peak_gib = peak_rss_gib()
    live_bytes = sum(array.nbytes for array in jax.live_arrays())

    jax.clear_caches()  # else JAX would find what it has just traced
    _, jaxpr_s = timed(lambda: jax.make_jaxpr(training.train_step)(*step_args))
    planning_s = program_s + rules_s + max(plans_s.values())
    measured = {
        "program_s": program_s,
        "peak_rss_program_gib": program_gib,
        "planning_s": planning_s,
    }
    return {
        "model": model,
        "parameters": spec.param_count(),
        "batch": [batch, seq],
        "make_jaxpr_s": round(jaxpr_s, 3),
        "program_s": round(program_s, 3),
        "rules_s": round(rules_s, 3),
        "plan_s": {f"{n} on {MESHES[n]}": round(s, 3) for n, s in plans_s.items()},
        "planning_s": round(planning_s, 3),
        "cpu_s": round(cpu_s, 3),
        "ops": len(program.ops),
        "values": len(program.values),
        "arguments": len(program.arguments),
        "live_array_bytes": live_bytes,
        "peak_rss_import_gib": round(imported_gib, 3),
        "peak_rss_program_gib": round(program_gib, 3),
        "peak_rss_gib": round(peak_gib, 3),
        "limits": LIMITS,
        "holds": {name: measured[name] <= limit for name, limit in LIMITS.items()},
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
