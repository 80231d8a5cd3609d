"""What `autoshard doctor` finds out: versions, devices, and checks of how they fit together."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_PACKAGES = (
    *("autoshard", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "scipy", "libtpu", "jax-cuda12-plugin"),
)
_SUPPORTED_JAX = ((0, 10), (0, 11))

Status = Literal["ok", "note", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: "fail" keeps autoshard from working as it should; a "note" is worth knowing.
        detail: What was found.
        hint: One line that mends it, or an empty string.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What jax sees.

    Attributes:
        backend: The default backend: "cpu", "gpu" or "tpu".
        kinds: Number of devices by kind.
        processes: Processes that form the cluster.
        axis_type: The axis type that `jax.make_mesh` gives to a mesh by default.
    """

    backend: str
    kinds: dict[str, int]
    processes: int
    axis_type: str


def versions() -> dict[str, str | None]:
    """Versions by package, Python's first; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def devices() -> Devices:
    """Starts jax and asks it.

    Raises:
        Exception: Whatever a broken installation raises.
    """
    import jax

    kinds: dict[str, int] = {}
    for device in jax.devices():
        kinds[device.device_kind] = kinds.get(device.device_kind, 0) + 1
    mesh: Any = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
    return Devices(
        backend=jax.default_backend(),
        kinds=kinds,
        processes=jax.process_count(),
        axis_type=mesh.axis_types[0].name,
    )


def check_jax_version(version: str | None) -> Check:
    """Whether the installed jax is one that autoshard supports."""
    if version is None:
        return Check(
            name="jax version", status="fail", detail="not installed", hint="pip install jax"
        )
    release = tuple(map(int, re.findall(r"\d+", version)[:2]))
    low, high = (".".join(map(str, v)) for v in _SUPPORTED_JAX)
    if not _SUPPORTED_JAX[0] <= release <= _SUPPORTED_JAX[1]:
        return Check(
            name="jax version",
            status="fail",
            detail=f"{version} is not supported; versions {low} to {high} are",
            hint=f"pip install 'jax>={low},<{_SUPPORTED_JAX[1][0]}.{_SUPPORTED_JAX[1][1] + 1}'",
        )
    return Check(name="jax version", status="ok", detail=f"{version} is supported")


def check_devices(found: Devices | Exception) -> Check:
    """Whether jax starts."""
    if isinstance(found, Exception):
        reason = ": ".join([type(found).__name__, *str(found).splitlines()[:1]])
        return Check(
            name="devices",
            status="fail",
            detail=f"jax does not start: {reason}",
            hint="JAX_PLATFORMS=cpu autoshard doctor",
        )
    kinds = ", ".join(f"{count} x {kind}" for kind, count in found.kinds.items())
    return Check(name="devices", status="ok", detail=f"{kinds} (backend {found.backend})")


def check_axis_type(found: Devices) -> Check:
    """What kind of axes a mesh has that the user makes without saying."""
    detail = f"jax.make_mesh gives {found.axis_type} axes by default"
    if found.axis_type == "Auto":
        return Check(name="mesh axes", status="ok", detail=detail)
    return Check(
        name="mesh axes",
        status="note",
        detail=f"{detail}; autoshard rebuilds such a mesh with Auto axes",
        hint='autoshard.parallelize(step, mesh="data=2,model=4")',
    )


def check_xla_flags(found: Devices, environ: Mapping[str, str] = os.environ) -> Check:
    """Whether the device count that XLA_FLAGS asks for has come into force."""
    flags = environ.get("XLA_FLAGS", "")
    asked = re.findall(r"--xla_force_host_platform_device_count=(\d+)", flags)
    if not asked:
        return Check(
            name="XLA_FLAGS", status="ok", detail=flags or "not set; --emulate N needs no flag"
        )
    count = sum(found.kinds.values())
    if found.backend != "cpu" or count == int(asked[-1]):
        return Check(name="XLA_FLAGS", status="ok", detail=flags)
    return Check(
        name="XLA_FLAGS",
        status="fail",
        detail=f"asks for {asked[-1]} CPU devices, jax has {count}: the flag came after jax had "
        "started, or jax_num_cpu_devices overrides it",
        hint="autoshard.emulate(8) as the program's first line, instead of the flag",
    )


def check_cluster(environ: Mapping[str, str] = os.environ) -> Check:
    """Which launcher started this process, and how the processes of a job find one another."""
    flags = "--coordinator {} --num-processes {} --process-id {}"
    if "SLURM_JOB_ID" in environ:
        srun = "srun autoshard train " + flags.format(
            '"$(scontrol show hostnames | head -n 1)":12345', '"$SLURM_NTASKS"', '"$SLURM_PROCID"'
        )
        # The variables expand in the task, not in the shell that calls srun.
        hint = f"srun bash -c '{srun.removeprefix('srun ')}'"
        needed = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
        missing = [name for name in needed if name not in environ]
        if missing:
            return Check(
                name="launcher",
                status="note",
                detail=f"SLURM job {environ['SLURM_JOB_ID']}, but outside of a task "
                f"({', '.join(missing)} not set): jax.distributed.initialize() would not see it",
                hint=hint,
            )
        return Check(
            name="launcher",
            status="ok",
            detail=f"SLURM task {environ['SLURM_PROCID']} of {environ['SLURM_NTASKS']}",
            hint=hint,
        )
    if "KUBERNETES_SERVICE_HOST" in environ:
        index = environ.get("JOB_COMPLETION_INDEX")
        return Check(
            name="launcher",
            status="note",
            detail="Kubernetes"
            + (f", pod {index} of an indexed job" if index else ", not an indexed job"),
            hint="autoshard train "
            + flags.format("POD-0.SERVICE:12345", "PODS", '"$JOB_COMPLETION_INDEX"'),
        )
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return Check(
            name="launcher",
            status="ok",
            detail=f"Open MPI rank {environ.get('OMPI_COMM_WORLD_RANK', '?')} of "
            f"{environ['OMPI_COMM_WORLD_SIZE']}",
            hint="autoshard train "
            + flags.format("HOST:12345", '"$OMPI_COMM_WORLD_SIZE"', '"$OMPI_COMM_WORLD_RANK"'),
        )
    return Check(name="launcher", status="ok", detail="none detected: a single process")


def check_compilers(found: Mapping[str, str | None]) -> Check:
    """For which devices that are not there a plan can be compiled."""
    compilers = {"TPU": found.get("libtpu"), "GPU": found.get("jax-cuda12-plugin")}
    there = [f"{kind} ({version})" for kind, version in compilers.items() if version]
    missing = [kind for kind, version in compilers.items() if not version]
    extras = ",".join({"TPU": "tpu", "GPU": "cuda12"}[kind] for kind in missing)
    return Check(
        name="ahead of time",
        status="ok",
        detail=f"plan --topology compiles for {', '.join(['CPU', *there])}"
        + (f"; not for {', '.join(missing)}" if missing else ""),
        hint=f"pip install 'autoshard[{extras}]'" if missing else "",
    )


def check_cache(environ: Mapping[str, str] = os.environ) -> Check:
    """Whether plans are kept between processes, and whether that works."""
    folder = environ.get("AUTOSHARD_CACHE", "")
    if not folder:
        return Check(
            name="plan cache",
            status="ok",
            detail="off: AUTOSHARD_CACHE is not set",
            hint="export AUTOSHARD_CACHE=~/.cache/autoshard",
        )
    path = Path(folder).expanduser()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Check(
            name="plan cache",
            status="fail",
            detail=f"AUTOSHARD_CACHE={folder} cannot be written",
            hint="export AUTOSHARD_CACHE=~/.cache/autoshard",
        )
    kept = len(list((path / "plans").glob("*.json"))) if (path / "plans").is_dir() else 0
    return Check(name="plan cache", status="ok", detail=f"{path}: {kept} plans")
