"""Compiling a plan for devices that need not be there."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoshard.errors import CompilerError, CompilerMissingError, PlanMismatchError, TopologyError
from autoshard.lowering.ahead._compilation import Compilation, find_shortage
from autoshard.lowering.ahead._export import Exported, export_plan
from autoshard.lowering.ahead._gpu import target_config
from autoshard.lowering.ahead._process import Limits, compiler_environment, run_compiler
from autoshard.lowering.ahead._target import Target, parse_target
from autoshard.plan import Plan
from autoshard.tracing import Program

_COMPILERS = {"gpu": ("jax_cuda12_plugin", "cuda12"), "tpu": ("libtpu", "tpu")}


def compile_ahead(
    program: Program,
    plan: Plan,
    topology: str | Target,
    *,
    donate: bool | Sequence[int] = True,
    results: Sequence[int] | None = None,
    limits: Limits | None = None,
    text: bool = False,
) -> Compilation:
    """Compile a planned program in a process of its own, for any topology.

    Nothing that the compiler does, not even an abort, reaches this process.

    Args:
        program: The program.
        plan: Its plan, on a mesh of as many devices as the topology has.
        topology: ``v5e:2x4``, ``h100:4x8``, ``cpu:8``, …
        donate: Whether the memory of state is reused, or positions of arguments.
        results: Positions of the results to return; all by default.
        limits: Time and memory that the compiler may use.
        text: Keep the optimized HLO.

    Returns:
        The compiler's statistics. A program that does not fit is no error: `Compilation.shortage`
        says so.

    Raises:
        TopologyError: There is no such topology, or no compiler here knows it.
        CompilerMissingError: Its compiler is not installed.
        PlanMismatchError: The plan is for another number of devices.
        CompilerError: The compiler refused the program, crashed, or reached a limit.
        ExportError: The program calls back into Python.
    """
    target = topology if isinstance(topology, Target) else parse_target(topology)
    check_compiler(target)
    if plan.mesh.size != target.devices:
        raise PlanMismatchError(
            plan.name,
            [f"mesh: {plan.mesh} in the plan, {target.devices} devices in {target}"],
            f'mesh="data=-1" and topology="{target}" to plan for it',
        )
    exported = export_plan(program, plan, target.platform, donate=donate, results=results)
    return run_target(exported, target, limits=limits or Limits(), text=text)


def trial_compile(
    program: Program, plan: Plan, *, limits: Limits | None = None, text: bool = False
) -> Compilation:
    """Compile a plan with the CPU's compiler in a process of its own: does it go at all?

    XLA aborts the process on some partitionings, such as a grouped convolution whose shards do not
    divide its groups. Here that is a `CompilerError`.

    Args:
        program: The program.
        plan: Its plan.
        limits: Time and memory that the compiler may use.
        text: Keep the optimized HLO.

    Returns:
        The compiler's statistics.

    Raises:
        CompilerError: The compiler refused the program, crashed, or reached a limit.
        ExportError: The program calls back into Python.
    """
    return compile_ahead(program, plan, f"cpu:{plan.mesh.size}", limits=limits, text=text)


def check_compiler(target: Target) -> None:
    """Look whether a target's compiler is installed, and knows the chip.

    Raises:
        CompilerMissingError: It is not.
        TopologyError: It does not.
    """
    package, extra = _COMPILERS.get(target.platform, (None, ""))
    if package is not None and importlib.util.find_spec(package) is None:
        raise CompilerMissingError(target.text, package, extra)
    if target.platform == "gpu":
        target_config(target.chip)


def run_target(exported: Exported, target: Target, *, limits: Limits, text: bool) -> Compilation:
    """Compile exported bytes for a target.

    Args:
        exported: The program.
        target: The target.
        limits: Time and memory that the compiler may use.
        text: Keep the optimized HLO.
    """
    with tempfile.TemporaryDirectory(prefix="autoshard-ahead-") as name:
        folder = Path(name)
        (folder / "program.bin").write_bytes(exported.data)
        request = _request(exported, target, text=text)
        (folder / "request.json").write_text(json.dumps(request), "utf-8")
        environment = compiler_environment(target.platform, target.devices)
        stderr = run_compiler(folder, environment, limits, target.text)
        result = json.loads((folder / "result.json").read_text("utf-8"))
        hlo = folder / "optimized.txt"
        optimized = hlo.read_text("utf-8") if text and hlo.exists() else None
    shortage = find_shortage(result["message"]) if "error" in result else None
    if "error" in result and shortage is None:
        _refuse(result, target)
    return Compilation(
        target=target,
        device_kind=result.get("device_kind", target.chip),
        statistics=result.get("statistics", {}),
        shortage=shortage,
        time_s=result.get("time_s", 0.0),
        text=optimized,
        stderr=stderr,
    )


def _request(exported: Exported, target: Target, *, text: bool) -> dict[str, Any]:
    return {
        "name": exported.name,
        "platform": target.platform,
        "chip": target.chip,
        "topology": target.name,
        "slices": target.slices,
        "devices": target.devices,
        "target_config": target_config(target.chip) if target.platform == "gpu" else "",
        "mesh": [exported.mesh.names, exported.mesh.sizes],
        "arguments": [spec.dims for spec in exported.arguments],
        "results": [spec.dims for spec in exported.results],
        "donated": exported.donated,
        "text": text,
    }


def _refuse(result: Mapping[str, str], target: Target) -> None:
    message = result["message"]
    if result["error"] == "DeviceCount":
        raise TopologyError(
            target.text,
            f"its compiler shows {message} devices where {target.devices} were expected",
            "a mesh of that many devices, or another shape",
        )
    first = message.splitlines()[0] if message else result["error"]
    if "opology" in first or "Invalid TPU" in first:
        raise TopologyError(target.text, f"its compiler refuses it: {first.rstrip('.')}")
    raise CompilerError(
        target.text,
        f"the compiler refused the program ({result['error']})",
        "\n".join(line[:300] for line in message.splitlines()[:4]),
        "another strategy or mesh, or a newer compiler",
    )
