"""Running the compiler in a process of its own, within limits.

XLA aborts on some programs, and a compiler can run for hours or eat all memory: none of that may
happen to the process that asked. The child leads a session of its own, so that it and whatever it
started can be ended together.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoshard.errors import CompilerError

_POLL_S = 0.1
_DEVICE_COUNT = re.compile(r"--xla_force_host_platform_device_count=\S*")
_NOISE = re.compile(
    r"^(WARNING: Logging before InitGoogle|E\d{4} .*common_lib|Failed to find host bounds|===|"
    r"learning/|\s*File |\s*@ |\s*\^|Fatal Python error|Extension modules|Thread 0x|Current thread)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a compiler may use.

    Args:
        timeout_s: Seconds.
        memory_bytes: Resident memory of the host; None for nine tenths of what it has.
    """

    timeout_s: float = 1800.0
    memory_bytes: int | None = None

    @property
    def memory(self) -> int:
        """The limit in bytes."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        try:
            return int(0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):  # not every system has sysconf
            return sys.maxsize


def compiler_environment(platform: str, devices: int) -> dict[str, str]:
    """The environment of a compiling process.

    Args:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        devices: Devices of the target.

    Returns:
        This process's environment, with what has to differ.
    """
    environment = dict(os.environ)
    # The child needs the packages that this process has found, wherever from.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    flags = _DEVICE_COUNT.sub("", environment.pop("XLA_FLAGS", "")).split()
    if platform == "cpu":
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    if platform == "gpu":
        flags.append("--xla_gpu_autotune_level=0")  # there is nothing to measure on
    environment["XLA_FLAGS"] = " ".join(flags)
    environment["JAX_PLATFORMS"] = "cpu"
    environment["TPU_SKIP_MDS_QUERY"] = "1"
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    return environment


def run_compiler(
    folder: Path, environment: Mapping[str, str], limits: Limits, topology: str
) -> str:
    """Run the compiling process on a folder and wait for it.

    Args:
        folder: Where its request is, and its result will be.
        environment: Its environment.
        limits: What it may use.
        topology: What it compiles for, for errors.

    Returns:
        What it wrote to standard error.

    Raises:
        CompilerError: It crashed, or ran out of time or memory.
    """
    command = [sys.executable, "-m", "autoshard.lowering.ahead", str(folder)]
    log = folder / "stderr.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        problem = _watch(process, limits)
    finally:
        _end(process)
    said = log.read_text("utf-8", errors="replace")
    if problem is not None:
        hint = "a higher limit (--timeout, --host-memory), or a smaller model to begin with"
        raise CompilerError(topology, problem, "", hint)
    if process.returncode != 0:
        raise CompilerError(
            topology,
            f"the compiler died: {_cause(process.returncode)}",
            _last_words(said),
            "another strategy or mesh; please report it with AUTOSHARD_DEBUG=1 if it should work",
        )
    return said


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> str | None:
    """Wait for the process; say which limit it reached, if any."""
    start = time.monotonic()
    memory = limits.memory
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return None
        if time.monotonic() - start > limits.timeout_s:
            return f"the compiler was not done after {limits.timeout_s:g} s"
        if resident_bytes(process.pid) > memory:
            return f"the compiler took more than {memory / 2**30:.2f} GiB of this machine's memory"


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM; zero where it is gone or cannot be asked."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        pass
    if sys.platform == "linux":
        return 0
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(done.stdout.strip() or 0) * 1024


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process and of those that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _last_words(stderr: str, lines: int = 4) -> str:
    """The lines of a crash that say what happened."""
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in said if not _NOISE.match(line)]
    failed = [line for line in told if re.search(r"Check failed|F\d{4} |Error\b", line)]
    return "\n".join(line[:300] for line in (failed or told)[-lines:])
