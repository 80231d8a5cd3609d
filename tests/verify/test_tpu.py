"""Programs that the TPU compiler makes, for a TPU that is not there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoshard.verify import collectives, summarize

# In a process of its own: the compiler's library can be loaded by one process at a time only, and
# keeps its threads.
PROGRAM = """
import dataclasses, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from autoshard.verify import memory

devices = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1]).devices
mesh = Mesh(np.array(devices).reshape(2, 4), ("data", "model"))

def struct(shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*spec)))

ws = struct((6, 2048, 8192), None, "data", "model"), struct((6, 8192, 2048), None, "model", "data")
x = struct((64, 512, 2048), "data", None, None)

def loss(ws, x):
    layer = lambda c, w: (c + jax.nn.gelu(c @ w[0]) @ w[1], None)
    y, _ = jax.lax.scan(jax.checkpoint(layer), x, ws)
    return jnp.sum(y.astype(jnp.float32) ** 2)

out = jax.tree.map(lambda w: w.sharding, ws)
compiled = jax.jit(jax.grad(loss), out_shardings=out).lower(ws, x).compile()
print(json.dumps({"text": compiled.as_text(), "memory": dataclasses.asdict(memory(compiled))}))
"""

WEIGHT_BYTES = 2048 * 8192 * 2 // 4  # of one layer's one matrix, gathered over `data`


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra [tpu]")
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2"])
def test_zero3_and_tensor_parallel_layers(topology: str, tmp_path: Path) -> None:
    """The v5e compiler splits gathers over fusions, the v5p compiler does not: counts agree."""
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    run = [sys.executable, "-c", PROGRAM, topology]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    found = collectives(result["text"], {"data": 2, "model": 4})
    assert {one.count for one in found if not one.is_scalar} == {6}
    totals = summarize(found, scalars=False)
    gathered = totals["all-gather", ("data",)]
    assert gathered.result_bytes == 6 * 2 * 2 * WEIGHT_BYTES  # both matrices, forward and backward
    scattered = totals["reduce-scatter", ("data",)]
    assert scattered.operand_bytes == 6 * 2 * WEIGHT_BYTES
    assert totals["all-reduce", ("model",)].count == 6 * 2
    assert all(one.source_file == "<string>" for one in found if one.op_name)

    memory = result["memory"]
    parts = memory["argument_bytes"] + memory["output_bytes"] + memory["temp_bytes"]
    assert memory["peak_bytes"] == pytest.approx(parts - memory["alias_bytes"], rel=0.02)
