"""Measures what a call of a parallelized step costs beside the step; prints one JSON object.

For steps of 10 to 1000 state leaves on emulated devices: time per call of the decorated function
minus that of plain `jax.jit` of the same function with the same shardings, donation and compiler
options, both alternating within one run so that a busy machine disturbs both alike. The step
computes almost nothing. `dispatch_us` is the smallest time of a call's Python work alone, the
compiled program left out: it does not depend on how busy the emulated devices are, and it is what
the exit status judges. A step on NNX objects is compared with `nnx.jit` of the same step, whose
state is donated as well; its time is the smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import autoshard

GOAL_US = "100 + 1 per leaf"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 12, 36], help="of NNX steps")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per size")
    options = parser.parse_args()
    autoshard.emulate(options.devices)
    sizes = [measure(n, options.seconds) for n in options.leaves]
    nnx_steps = [measure_nnx(n, options.seconds) for n in options.layers]
    report = {"devices": options.devices, "goal_us": GOAL_US, "sizes": sizes, "nnx": nnx_steps}
    print(json.dumps(report, indent=1))
    good = all(row["dispatch_us"] <= row["goal_us"] for row in (*sizes, *nnx_steps))
    return 0 if good else 1


def measure(n_leaves: int, seconds: float) -> dict[str, Any]:
    """Compare the two for one number of leaves."""
    import jax
    import jax.numpy as jnp

    from autoshard._compat import memory_first_options

    def step(state: dict[str, jax.Array], x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        return {name: value + 1 for name, value in state.items()}, jnp.sum(x)

    def create() -> dict[str, jax.Array]:
        return {f"leaf_{i}": jnp.zeros((8,)) for i in range(n_leaves)}

    planned = autoshard.parallelize(step, strategy="dp")
    x = autoshard.shard_batch(jnp.zeros((8, 8)), planned.mesh)
    mine = planned.init(create, step_args=(x,))
    theirs = jax.tree.map(jnp.copy, mine)
    mine, total = planned(mine, x)
    out_shardings = jax.tree.map(lambda a: a.sharding, (mine, total))
    in_shardings = (jax.tree.map(lambda a: a.sharding, mine), x.sharding)
    plain = jax.jit(
        step,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        donate_argnums=(0,),
        compiler_options=memory_first_options(jax.default_backend()),
    )
    theirs, _ = plain(theirs, x)
    timed = {"autoshard": lambda s: planned(s, x)[0], "jit": lambda s: plain(s, x)[0]}
    states = {"autoshard": mine, "jit": theirs}
    samples: dict[str, list[float]] = {name: [] for name in timed}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in timed.items():
            states[name], time_s = _one(call, states[name])
            samples[name].append(time_s)
    median = {name: statistics.median(s) * 1e6 for name, s in samples.items()}
    dispatch_us = _dispatch_us(planned, states["autoshard"], x)
    return {
        "leaves": n_leaves,
        "calls": len(samples["jit"]),
        "jit_us": round(median["jit"], 1),
        "autoshard_us": round(median["autoshard"], 1),
        "overhead_us": round(median["autoshard"] - median["jit"], 1),
        "dispatch_us": round(dispatch_us, 1),
        "goal_us": 100 + n_leaves,
    }


def measure_nnx(n_layers: int, seconds: float) -> dict[str, Any]:
    """Compare a step on NNX objects with ``nnx.jit``: small layers, SGD with momentum."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Layer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.up = nnx.Linear(8, 8, rngs=rngs)
            self.down = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.down(nnx.relu(self.up(self.norm(x))))

    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layers = nnx.List([Layer(rngs) for _ in range(n_layers)])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers:
                x = layer(x)
            return x

    def step(model: Any, optimizer: Any, x: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    def create(key: jax.Array) -> tuple[Any, Any]:
        model = Model(nnx.Rngs(key))
        return model, nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    planned = autoshard.parallelize(step, strategy="dp")
    x = autoshard.shard_batch(jnp.ones((8, 8)), planned.mesh)
    mine = planned.init(create, jax.random.key(0), step_args=(x,))
    # A clone shares its arrays, which both would donate.
    theirs = jax.tree.map(jnp.copy, nnx.clone(mine))
    plain = nnx.jit(step, donate_argnums=(0, 1))
    samples: dict[str, list[float]] = {"autoshard": [], "nnx.jit": []}
    runs: list[tuple[str, Any, Any]] = [("autoshard", planned, mine), ("nnx.jit", plain, theirs)]
    for _, run, objects in runs:
        for _ in range(4):  # compile, and let the first state go round
            jax.block_until_ready(run(*objects, x))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run, objects in runs:
            jax.block_until_ready(jax.tree.leaves(nnx.state(objects)))
            start = time.perf_counter()
            jax.block_until_ready(run(*objects, x))
            samples[name].append(time.perf_counter() - start)
    n_leaves = len(jax.tree.leaves(nnx.state(mine)))
    best = {name: min(s) * 1e6 for name, s in samples.items()}
    return {
        "layers": n_layers,
        "leaves": n_leaves,
        "calls": len(samples["nnx.jit"]),
        "nnx_jit_us": round(best["nnx.jit"], 1),
        "autoshard_us": round(best["autoshard"], 1),
        "dispatch_us": round(_nnx_dispatch_us(planned, mine, x), 1),
        "goal_us": 100 + n_leaves,
    }


def _nnx_dispatch_us(planned: Any, objects: Any, x: Any, repeat: int = 200) -> float:
    """Smallest time of a call whose compiled program returns the arrays it is given."""
    memory = planned._memory
    recent = memory.recent
    entry = recent.entry
    call = planned._read((*objects, x), {})
    states = call.leaves[: len(entry.state_arguments)]
    results = [x.addressable_data(0)[0, 0], *states]
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call = planned._read((*objects, x), {})
        fits = recent.fits(call)
        entry.run(lambda *_: results, call, memory.owned, recent)
        best = min(best, time.perf_counter() - start)
        assert fits
    return best * 1e6


def _one(call: Callable[[Any], Any], state: Any) -> tuple[Any, float]:
    import jax

    jax.block_until_ready(state)
    start = time.perf_counter()
    state = call(state)
    jax.block_until_ready(state)
    return state, time.perf_counter() - start


def _dispatch_us(planned: Any, state: Any, x: Any, repeat: int = 200) -> float:
    """Smallest time of a call whose compiled program returns ready results at once."""
    import jax

    memory = planned._memory
    entry, recent = memory.recent.entry, memory.recent
    results = [*jax.tree.leaves(state), jax.numpy.zeros(())]
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call = planned._read((state, x), {})
        fits = recent.fits(call)
        state, _ = entry.run(lambda *_: results, call, memory.owned, recent)
        best = min(best, time.perf_counter() - start)
        assert fits
    return best * 1e6


if __name__ == "__main__":
    raise SystemExit(main())
