"""Clusters of processes on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def cluster(processes: int, worker: Path, *arguments: object) -> Generator[list[subprocess.Popen]]:
    """Start ``worker COORDINATOR PROCESSES PROCESS_ID ARGUMENTS`` so often; none outlives it."""
    coordinator = f"127.0.0.1:{free_port()}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    started = [
        subprocess.Popen(
            [sys.executable, worker, coordinator, str(processes), str(i), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(processes)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            with process:  # waits, and closes its pipes
                pass
