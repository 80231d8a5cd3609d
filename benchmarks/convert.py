"""Converting a checkpoint: memory, speed and bytes, beside orbax loading and saving the same.

Makes float32 checkpoints of two sizes as Hugging Face files of a Llama, and converts them in new
processes to this package's format and back. Prints one JSON object. Peak memory is that of the
process over what it has after its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYER_BYTES = 4 * (4 * 2048 * 2048 + 3 * 2048 * 5632 + 2 * 2048)


def make(folder: Path, nbytes: int) -> None:
    """A Llama of about so many bytes, layer by layer."""
    from autoshard.checkpoint import TensorInfo
    from autoshard.checkpoint.layouts.formats import SafetensorsSink

    layers = max(1, nbytes // LAYER_BYTES)
    shapes = {"model.embed_tokens.weight": (4096, 2048), "model.norm.weight": (2048,)}
    for i in range(layers):
        name = f"model.layers.{i}"
        for part in "qkvo":
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (2048, 2048)
        shapes |= {f"{name}.mlp.{n}_proj.weight": (5632, 2048) for n in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (2048, 5632)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{name}.{norm}.weight"] = (2048,)
    sink = SafetensorsSink(folder)
    sink.describe({"config": {"model_type": "llama", "num_attention_heads": 16}})
    for name, shape in shapes.items():
        sink.declare(name, TensorInfo(shape=shape, dtype=np.dtype(np.float32)))
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32)
        sink.write(name, tuple(slice(0, n) for n in shape), values)
    sink.commit()


def memory(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell {what}")


def worker(source: str, target: str, budget_bytes: str, to: str) -> None:
    """One conversion; prints its time and peak memory."""
    from autoshard.checkpoint.layouts.convert import convert

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    base = memory("VmRSS")
    start = time.perf_counter()
    outcome = convert(
        Path(source), Path(target), budget_bytes=int(budget_bytes), to_layout=to or None
    )
    found = {
        "time_s": time.perf_counter() - start,
        "bytes": outcome.bytes_written,
        "extra_rss_bytes": memory("VmHWM") - base,
    }
    print(json.dumps(found))


def orbax_worker(source: str, target: str) -> None:
    """Orbax loads all and saves all, uncompressed."""
    import orbax.checkpoint as ocp

    start = time.perf_counter()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as checkpointer:
        tree = checkpointer.restore(Path(source) / "state")
        checkpointer.save(Path(target), tree)
    print(json.dumps({"time_s": time.perf_counter() - start}))


def call(*arguments: object) -> dict[str, float]:
    """Runs this file as a worker."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--budget-mib", type=int, default=128)
    parser.add_argument("--times", type=int, default=4, help="how much larger the second one is")
    options = parser.parse_args()
    report: dict[str, object] = {"budget_bytes": options.budget_mib << 20}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, times in (("small", 1), ("large", options.times)):
            hf, native, back = (root / f"{name}-{kind}" for kind in ("hf", "native", "back"))
            make(hf, options.megabytes * 10**6 * times)
            budget = options.budget_mib << 20
            imported = call("worker", hf, native, budget, "")
            exported = call("worker", native, back, budget, "hf_llama")
            report[name] = {"import": imported, "export": exported}
            if name == "small":
                report["orbax_load_save"] = call("orbax", native, root / "orbax")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:])
    elif sys.argv[1:2] == ["orbax"]:
        orbax_worker(*sys.argv[2:])
    else:
        main()
