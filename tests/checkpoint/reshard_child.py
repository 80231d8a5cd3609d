"""Load a checkpoint onto the devices of this process, compare every bit, and save it again.

python reshard_child.py SOURCE TARGET MESH
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jax
import numpy as np
from checkpoint_trees import DTYPES, assert_same, mesh, on, random_array

import autoshard.checkpoint as ck

MESHES = {
    1: "data=1,model=1",
    3: "data=1,model=3",
    4: "data=2,model=2",
    6: "data=3,model=2",
    8: "data=4,model=2",
    16: "data=4,model=4",
}


def tree(text: str) -> dict[str, Any]:
    """All dtypes, on a mesh."""
    devices = mesh(text)
    both, none = on(devices, "data", "model"), on(devices)
    arrays = {np.dtype(d).name: jax.device_put(random_array((48, 96), d), both) for d in DTYPES}
    return {
        **arrays,
        "scalar": jax.device_put(np.float32(3), none),
        "odd": jax.device_put(random_array((7, 13), np.float32), none),
        "key": jax.device_put(jax.random.key(5), none),
        "empty": jax.device_put(np.zeros((0, 4), np.float32), none),
        "host": random_array((50, 3), np.float64),
    }


def main() -> None:
    source, target, text = sys.argv[1:]
    wanted = tree(text)
    found = ck.load(source, wanted)
    assert_same(found, wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert not isinstance(a, jax.Array) or a.sharding == b.sharding
    print(ck.save(target, found).digest)


if __name__ == "__main__":
    main()
