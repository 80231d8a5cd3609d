"""One process of two that save or load together; one of them is lost at a chosen moment.

python lost_peer_worker.py COORDINATOR PROCESSES PROCESS_ID DIRECTORY WHO MOMENT

The other one prints what it met, as JSON, and leaves without the cluster's own farewell, which
would wait for the lost one as long as jax is told to.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import autoshard

sys.path.insert(0, str(Path(__file__).parent))
TIMEOUT_S = 2.0


def main() -> None:
    coordinator, processes, process_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    directory, who, moment = Path(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
    autoshard.emulate(2)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, process_id)
    found = work(directory, moment, lost=process_id == who)
    print(json.dumps(found), flush=True)
    os._exit(0)


def die(how: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), how)


def once(kind: type, name: str) -> None:
    """Let a method work once, and end the process at its second call."""
    method, calls = getattr(kind, name), []

    def call(*arguments: Any) -> Any:
        if calls:
            die()
        calls.append(arguments)
        return method(*arguments)

    setattr(kind, name, call)


def watcher(directory: Path, moment: str) -> Callable[[str, Path], None]:
    """Dies when the file system is about to change as the moment says."""
    tiles = [0]

    def watch(operation: str, path: Path) -> None:
        tiles[0] += operation == "write"
        if moment == "stopped while writing tiles" and tiles[0] == 4:
            die(signal.SIGSTOP)
        reached = {
            "while writing tiles": tiles[0] == 4,
            "before its note": path.name.startswith("process_"),
            "before the commit": path.name == "COMMIT",
            "after the commit": operation == "fsync" and path == directory and tiles[0] > 4,
        }
        if reached.get(moment):
            die()

    return watch


def work(directory: Path, moment: str, *, lost: bool) -> dict[str, Any]:
    import jax
    import numpy as np
    from checkpoint_trees import mesh, on

    import autoshard.checkpoint as ck
    from autoshard.checkpoint._io import observed
    from autoshard.checkpoint._processes import Group
    from autoshard.checkpoint._source import NativeSource
    from autoshard.errors import CheckpointPeerError

    sharding = on(mesh("d=4"), "d")
    arrays = [np.full((512, 512), i, np.float32) for i in range(4)]
    tree = [jax.make_array_from_callback((512, 512), sharding, lambda i, a=a: a[i]) for a in arrays]
    ck.save(directory / "step_00000001", {"w": tree}, peer_timeout_s=TIMEOUT_S)

    if lost and moment == "before the save":
        die()
    if lost and moment == "before it hears of the commit":
        once(Group, "tell")
    if lost and moment == "while loading":
        once(NativeSource, "tile")
    start_s = time.monotonic()
    found: dict[str, Any] = {}
    try:
        with observed(watcher(directory, moment) if lost else lambda *_: None):
            if moment == "while loading":
                loaded = ck.load(directory / "step_00000001", {"w": tree})["w"]
                shards = [np.asarray(s.data) for a in loaded for s in a.addressable_shards]
                found["loaded"] = float(sum(s.sum() for s in shards))
            elif moment == "in the background":
                pending = ck.save_async(
                    directory / "step_00000002", {"w": tree}, peer_timeout_s=TIMEOUT_S
                )
                if lost:
                    die()
                pending.result()
            else:
                ck.save(directory / "step_00000002", {"w": tree}, peer_timeout_s=TIMEOUT_S)
    except CheckpointPeerError as error:
        found |= {"process": error.process, "text": str(error)}
    found["seconds"] = time.monotonic() - start_s
    return found


if __name__ == "__main__":
    main()
