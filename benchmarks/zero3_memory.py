"""Temporary bytes of a compiled train step under dp and zero3, by number of layers.

Prints one JSON object. `zero3` is compiled twice: as autoshard compiles it, and with the default
schedule of XLA's CPU backend. Runs on eight emulated devices; nothing is allocated or executed.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import optax

import autoshard
from autoshard import models
from autoshard.lowering import device_mesh, lower_plan
from autoshard.plan import parse_mesh
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import trace

HIDDEN = 256
LAYERS = (2, 6)


def temporaries(layers: int, scan: bool) -> dict[str, Any]:
    """Bytes for one model."""
    spec = models.get("gpt-tiny", hidden=HIDDEN, layers=layers, scan_layers=scan, max_positions=16)
    training = models.make_training(spec, optax.adamw(1e-3))
    batch = spec.example_batch(8, 8)
    state = jax.eval_shape(training.create_state, jax.random.key(0))
    program = trace(training.train_step, (state, batch))
    leaves = jax.tree.leaves(((state, batch), {}))
    row: dict[str, Any] = {
        "layers": layers,
        "scanned": scan,
        "parameter_bytes": sum(x.size * 4 for x in jax.tree.leaves(state.params)),
    }
    for strategy in ("dp", "zero3"):
        plan = plan_by_recipe(program, parse_mesh("data=8", 8), strategy)
        mesh = device_mesh(plan.mesh)
        for nested, key in ((False, "temp_bytes"), (True, "temp_bytes_default_schedule")):
            compiled = lower_plan(program, plan, mesh, nested=nested).lower(*leaves).compile()
            row[f"{strategy}_{key}"] = compiled.memory_analysis().temp_size_in_bytes
    return row


def main() -> None:
    """Measure and print."""
    autoshard.emulate(8)
    rows = [temporaries(layers, scan) for scan in (False, True) for layers in LAYERS]
    print(json.dumps({"hidden": HIDDEN, "devices": 8, "models": rows}))


if __name__ == "__main__":
    main()
