"""One process of a cluster that trains a small GPT; prints its losses as JSON.

python cluster_worker.py COORDINATOR PROCESSES PROCESS_ID
"""

import json
import sys
from typing import Any

import autoshard

DEVICES = 8
STEPS = 10


def main() -> None:
    coordinator, processes, process_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    autoshard.emulate(DEVICES // processes)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process_id)
    assert jax.device_count() == DEVICES
    print(json.dumps(everything(processes, process_id)), flush=True)


def everything(processes: int, process_id: int) -> dict[str, Any]:
    """What each process has to find, whatever their number is."""
    return {
        "zero3+tensor": losses("data=2,model=4", "zero3+tensor", processes, process_id),
        "dp": losses("data=8", "dp", processes, process_id),
        **other_ways(processes, process_id),
    }


def local_rows(batch: dict[str, Any], processes: int, process_id: int) -> dict[str, Any]:
    """The part of a global batch that a process reads."""
    n = len(next(iter(batch.values()))) // processes
    return {k: v[process_id * n : (process_id + 1) * n] for k, v in batch.items()}


def batches(spec: Any, n: int) -> list[dict[str, Any]]:
    import numpy as np

    random = np.random.default_rng(0)
    shapes = spec.example_batch(16, 32)
    return [
        {k: random.integers(0, 64, v.shape).astype(v.dtype) for k, v in shapes.items()}
        for _ in range(n)
    ]


def losses(mesh: str, strategy: str, processes: int, process_id: int) -> list[float]:
    """Losses of a training run on data that each process has its own part of."""
    import jax
    import optax

    from autoshard import models

    spec = models.get("gpt-tiny", layers=1, hidden=32)
    training = models.make_training(spec, optax.adamw(1e-2))
    step = autoshard.parallelize(training.train_step, mesh=mesh, strategy=strategy)
    example = spec.example_batch(16, 32)
    state = step.init(training.create_state, jax.random.key(0), step_args=(example,))
    found = []
    for batch in batches(spec, STEPS):
        mine = autoshard.shard_batch(local_rows(batch, processes, process_id), step)
        state, metrics = step(state, mine)
        found.append(float(metrics["loss"]))
    return found


def other_ways(processes: int, process_id: int) -> dict[str, Any]:
    """State from elsewhere, closed-over arrays, an evaluation, compiling ahead of time."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    table = jnp.arange(8 * 16, dtype=jnp.float32).reshape(8, 16) / 1024

    def create(key):
        return {"w": jax.random.normal(key, (16, 8)), "b": jnp.ones((8,))}

    def loss(state, x):
        return jnp.mean((x @ state["w"] + state["b"][None] @ table @ state["w"]) ** 2)

    def step(state, x):
        value, gradients = jax.value_and_grad(loss)(state, x)
        return {k: state[k] - 0.01 * gradients[k] for k in state}, {"loss": value}

    planned = autoshard.parallelize(step, mesh="data=4,model=2", strategy="zero3+tensor")
    evaluate = autoshard.parallelize(loss, like=planned)
    x = np.random.default_rng(1).standard_normal((16, 16), dtype=np.float32)
    local = jax.jit(create)(jax.random.key(0))
    host = jax.tree.map(np.asarray, local)
    planned.plan(local, x)
    n = len(x) // processes
    mine = autoshard.shard_batch(x[process_id * n : (process_id + 1) * n], planned)
    assert mine.shape == x.shape
    on_mesh = autoshard.shard_batch(x[process_id * n : (process_id + 1) * n], planned.mesh)
    assert on_mesh.shape == x.shape
    found: dict[str, Any] = {}
    for name, state in {"local": local, "host": host}.items():
        state, first = planned(state, mine)
        before = float(evaluate(state, mine))
        state, second = planned(state, mine)
        found[name] = [float(first["loss"]), before, float(second["loss"])]
    assert not local["w"].is_deleted()
    replicated = planned.init(lambda: local, step_args=(x,))  # closed over, not made
    found["closed over"] = float(planned(replicated, x)[1]["loss"])  # the whole batch everywhere
    compiled = planned.compile(local, x)
    found["compiled"] = float(compiled(local, mine)[1]["loss"])
    if processes > 1:
        try:
            planned(host, np.full_like(x, process_id))
        except autoshard.AutoshardError as error:
            assert "shard_batch" in str(error)
        else:
            raise AssertionError("data that differs between processes was taken for one array")
    return found


if __name__ == "__main__":
    main()
