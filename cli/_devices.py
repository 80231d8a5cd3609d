"""Bringing up the devices that a command runs on, and asking what they hold."""

import os
import sys
from dataclasses import dataclass

from autoshard.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One process's place among several.

    Attributes:
        coordinator: Address `host:port` of process 0.
        num_processes: Processes in all.
        process_id: This process, from 0.
    """

    coordinator: str
    num_processes: int
    process_id: int


def cluster_from_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Cluster | None:
    """Reads the three flags that belong together.

    Returns:
        The cluster, or None where no flag is given: then there is one process.

    Raises:
        UsageError: Some flags are given and others not, or a number is out of range.
    """
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        return None
    example = "--coordinator 127.0.0.1:12345 --num-processes 2 --process-id 0"
    if coordinator is None or num_processes is None or process_id is None:
        raise UsageError(
            "--coordinator, --num-processes and --process-id belong together; some are missing",
            example,
        )
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process-id {process_id} does not lie in [0, {num_processes})", example)
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise UsageError(f"--coordinator {coordinator} is not of the form HOST:PORT", example)
    return Cluster(coordinator=coordinator, num_processes=num_processes, process_id=process_id)


def start_devices(emulate: int | None, cluster: Cluster | None = None) -> None:
    """Emulates devices and joins a cluster, before jax looks for devices.

    Args:
        emulate: Devices that the CPU plays in each process, or None for those there are.
        cluster: The cluster to join, or None for a single process.

    Raises:
        AutoshardError: jax has looked already.
    """
    import autoshard

    if emulate is not None:
        autoshard.emulate(emulate)
    if cluster is not None:
        _keep_stdout_for_results()
        import jax

        # Only CPUs read it: their default cannot reach another process.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(cluster.coordinator, cluster.num_processes, cluster.process_id)


def _keep_stdout_for_results() -> None:
    """Sends what libraries write to file descriptor 1 to standard error, for good.

    Gloo announces every connection there, from C++, in the midst of a JSON object.
    """
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def device_memory_bytes() -> int | None:
    """Memory of the first local device, in bytes; None where it cannot be known.

    Emulated devices share the machine's memory equally.
    """
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # not every system has sysconf
            return None
        return total // jax.local_device_count()
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None
