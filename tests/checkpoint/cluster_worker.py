"""One process of a cluster that saves, loads and resumes; prints what it found as JSON.

python cluster_worker.py COORDINATOR PROCESSES PROCESS_ID DIRECTORY
"""

import json
import sys
from pathlib import Path
from typing import Any

import autoshard

sys.path.insert(0, str(Path(__file__).parent))
DEVICES = 8


def main() -> None:
    coordinator, processes, process_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    autoshard.emulate(DEVICES // processes)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process_id)
    print(json.dumps(work(Path(sys.argv[4]), processes, process_id)), flush=True)


def work(directory: Path, processes: int, process_id: int) -> dict[str, Any]:
    import jax
    import numpy as np
    from checkpoint_trees import bits, mesh, on, random_array

    import autoshard.checkpoint as ck
    from autoshard.errors import CheckpointError

    whole = {
        "square": random_array((2048, 2048), np.float32),
        "odd": random_array((1032, 776), np.float32, 1),
        "keys": random_array((64, 2), np.uint32, 2),
        "host": random_array((300, 5), np.float64, 3),
        "small": random_array((3,), np.int8, 4),
    }
    rows, columns = on(mesh("d=8"), "d"), on(mesh("d=8"), None, "d")
    none = on(mesh("d=8"))

    def tree(sharding: Any) -> dict[str, Any]:
        def make(array: Any, sharding: Any) -> Any:
            return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])

        return {
            "square": make(whole["square"], sharding),
            "odd": make(whole["odd"], sharding),
            "keys": jax.random.wrap_key_data(make(whole["keys"], rows)),
            "small": make(whole["small"], none),
            "host": whole["host"],
            "local": jax.numpy.asarray(whole["small"]),
            "step": 4,
        }

    saved = ck.save(directory / "sync", tree(rows), step=4)
    pending = ck.save_async(directory / "async", tree(columns))
    found: dict[str, Any] = {"digest": saved.digest, "async": pending.result().digest}

    target = tree(columns)
    loaded = ck.load(directory / "sync", target)
    for name, wanted in target.items():
        value = loaded[name]
        if isinstance(wanted, jax.Array) and not wanted.is_fully_addressable:
            assert value.sharding == wanted.sharding
            if name == "keys":
                value, wanted = jax.random.key_data(value), jax.random.key_data(wanted)
            for a, b in zip(value.addressable_shards, wanted.addressable_shards, strict=True):
                assert bits(np.asarray(a.data)) == bits(np.asarray(b.data)), name
        else:
            assert bits(value) == bits(wanted), name

    if processes > 1:
        # Arrays of each process's own that differ are no array at all.
        try:
            ck.save(directory / "differs", {"x": np.full(3, process_id)})
        except CheckpointError as error:
            found["differs"] = type(error).__name__
        # One process that fails lets all fail, at once, and the next save works.
        from autoshard.checkpoint._io import observed

        def fails(operation: str, path: Path) -> None:
            if process_id == processes - 1 and operation == "fsync" and "square" in str(path):
                raise OSError(28, "No space left on device")

        try:
            with observed(fails):
                ck.save(directory / "fails", tree(rows))
        except CheckpointError as error:
            found["fails"] = type(error).__name__
        assert not (directory / "fails").exists()
        ck.save(directory / "fails", tree(rows))
        with ck.Checkpointer(directory / "run", save=ck.SavePolicy(every_minutes=1e-9)) as run:
            for step in (1, 2, 3, 4, 5):
                run.maybe_save(step, tree(rows))
        found["steps"] = run.steps()
    return found


if __name__ == "__main__":
    main()
