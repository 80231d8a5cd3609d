"""The process that compiles. It alone loads the compiler, and it may die of it.

``python -m autoshard.lowering.ahead FOLDER`` reads ``request.json`` and ``program.bin`` there and
leaves ``result.json``, and ``optimized.txt`` where it is asked for.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoshard._compat import memory_first_options
from autoshard.lowering._jit import device_mesh
from autoshard.lowering.ahead._compilation import read_statistics
from autoshard.plan import MeshShape


def main() -> None:
    """Compile what the folder in the arguments holds."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text("utf-8"))
    try:
        result = compile_request(folder, request)
    except Exception as error:
        # Whatever it is, the parent says it to the user.
        result = {"error": type(error).__name__, "message": str(error)}
    part = folder / "result.part"
    part.write_text(json.dumps(result), "utf-8")
    part.replace(folder / "result.json")


def compile_request(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Compile a request.

    Args:
        folder: Where the program is.
        request: As `_process` writes it.

    Returns:
        Statistics as plain data.
    """
    devices = find_devices(request)
    names, sizes = request["mesh"]
    if len(devices) != request["devices"]:
        return {"error": "DeviceCount", "message": str(len(devices))}
    mesh = arrange(MeshShape(tuple(names), tuple(sizes)), devices, request["slices"])
    program = export.deserialize(bytearray((folder / "program.bin").read_bytes()))

    def shardings(specs: list[list[list[str]]]) -> list[NamedSharding]:
        return [NamedSharding(mesh, PartitionSpec(*(tuple(d) or None for d in s))) for s in specs]

    def run(*arguments: Any) -> Any:
        return program.call(*arguments)

    run.__name__ = run.__qualname__ = request["name"]
    jitted = jax.jit(
        run,
        in_shardings=tuple(shardings(request["arguments"])),
        out_shardings=shardings(request["results"]),
        donate_argnums=tuple(request["donated"]),
        compiler_options=memory_first_options(request["platform"]),
    )
    structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.in_avals]
    lowered = jitted.lower(*structs)
    start_s = time.perf_counter()
    compiled = lowered.compile()
    time_s = time.perf_counter() - start_s
    if request["text"]:
        (folder / "optimized.txt").write_text(compiled.as_text() or "", "utf-8")
    return {
        "device_kind": devices[0].device_kind,
        "statistics": read_statistics(compiled.memory_analysis()),
        "time_s": time_s,
    }


def arrange(shape: MeshShape, devices: list[Any], slices: int) -> Mesh:
    """Lay a mesh onto devices, slices along the slowest axes that they divide.

    Args:
        shape: The mesh.
        devices: The devices, slice by slice.
        slices: How many slices there are.

    Returns:
        The device mesh.
    """
    plain = np.array(devices).reshape(shape.sizes)
    auto = (AxisType.Auto,) * len(shape.names)
    if slices == 1:
        try:
            return device_mesh(shape, devices)
        except (AssertionError, NotImplementedError):
            # JAX lays no mesh onto the single cores of a v4, nor onto some odd shapes.
            return Mesh(plain, shape.names, axis_types=auto)
    between: list[int] = []
    for size in shape.sizes:
        between.append(math.gcd(size, slices // math.prod(between)))
    within = [size // n for size, n in zip(shape.sizes, between, strict=True)]
    if math.prod(between) == slices:
        laid: Any = mesh_utils.create_hybrid_device_mesh(within, between, devices)
    else:
        laid = plain
    return Mesh(laid, shape.names, axis_types=auto)


def find_devices(request: dict[str, Any]) -> list[Any]:
    """The devices to compile for."""
    if request["platform"] == "cpu":
        return list(jax.devices())
    if request["platform"] == "gpu":
        topology = topologies.get_topology_desc(
            request["chip"],
            "cuda",
            target_config=request["target_config"],
            topology=request["topology"],
        )
        return list(topology.devices)
    more = {"num_slices": request["slices"]} if request["slices"] > 1 else {}
    topology = topologies.get_topology_desc(request["topology"], "tpu", **more)
    return list(topology.devices)
