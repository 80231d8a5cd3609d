"""Communication behind computation: partial, with a price for sharing.

Never `max(compute, communicate)` alone: a share of the shorter one stays visible, and the
overlapped computation runs slower because the collective takes cores and memory bandwidth
(Calculon takes 15 % of the SMs for NVLink, 2 % for InfiniBand; Galvatron and Echo measure it).
"""

from collections.abc import Sequence

from ._check import fraction, non_negative, positive_int
from .errors import InvalidFieldError

# Share of the compute units that a running collective takes away (Calculon a100_80g.json).
TAKEN = {"domain": 0.15, "package": 0.15, "cluster": 0.02, "group": 0.02, "ici": 0.0, "dcn": 0.0}


def overlapped(compute_s: float, comm_s: float, exposed_share: float) -> float:
    """Seconds of computation and communication that run side by side.

        t = max(c, m) + x min(c, m)

    Args:
        compute_s: seconds of computation alone.
        comm_s: seconds of communication alone.
        exposed_share: x, 0 for perfect overlap and 1 for none.
    """
    if compute_s > comm_s:
        return compute_s + exposed_share * comm_s
    return comm_s + exposed_share * compute_s


def exposed(compute_s: float, comm_s: float, exposed_share: float) -> float:
    """Seconds that communication adds to computation; at most `comm_s`."""
    return min(comm_s, overlapped(compute_s, comm_s, exposed_share) - compute_s)


def slowdown(comm_level: str) -> float:
    """Factor on computation while a collective runs on the given level: 1 / (1 - taken)."""
    return 1.0 / (1.0 - TAKEN.get(comm_level, 0.0))


def overlapped_with_slowdown(
    compute_s: float, comm_s: float, exposed_share: float, level: str
) -> float:
    """`overlapped`, with the hidden stretch of computation slowed down.

    Args:
        compute_s: seconds of computation alone.
        comm_s: seconds of communication alone.
        exposed_share: share of the shorter that stays visible.
        level: level the collective rides on.
    """
    together = min(compute_s, comm_s) * (1 - exposed_share)
    return overlapped(compute_s, comm_s, exposed_share) + together * (slowdown(level) - 1)


def bucketed(backward_s: Sequence[float], bucket_comm_s: Sequence[float]) -> float:
    """Seconds from the start of the backward pass to the end of the last bucket's reduction.

    Buckets become ready as the backward pass proceeds (layer by layer, last layer first) and are
    reduced in order, one at a time (PyTorch DDP; Li et al., VLDB 2020, section 3.2).

    Args:
        backward_s: seconds of backward computation until each bucket is ready, after the one
            before it.
        bucket_comm_s: seconds to reduce each bucket.

    Returns:
        Seconds; the exposed part is this minus the sum of `backward_s`.

    Raises:
        InvalidFieldError: the sequences differ in length.
    """
    if len(backward_s) != len(bucket_comm_s):
        raise InvalidFieldError(
            "bucket_comm_s", len(bucket_comm_s), f"{len(backward_s)} buckets, as backward_s"
        )
    ready = free = 0.0
    for compute, comm in zip(backward_s, bucket_comm_s, strict=True):
        ready += non_negative("backward_s", compute)
        free = max(ready, free) + non_negative("bucket_comm_s", comm)
    return max(ready, free)


def prefetched(
    layers: int, compute_s: float, gather_s: float, *, depth: int = 1, scatter_s: float = 0.0
) -> float:
    """Seconds of a pass that gathers each layer's weights ahead of use (ZeRO-3, FSDP).

    The first gather and the last scatter are always exposed; between them a layer waits only for
    what its prefetch could not hide.

    Args:
        layers: layers.
        compute_s: seconds of one layer.
        gather_s: seconds to gather one layer.
        depth: layers gathered ahead; 0 means on demand.
        scatter_s: seconds to scatter one layer's gradients (backward pass), on the same link.

    Returns:
        Seconds of the whole pass.
    """
    positive_int("layers", layers)
    if depth < 1:
        return layers * (compute_s + gather_s + scatter_s)
    link_free = gather_s
    done = 0.0
    gathered = [gather_s]
    for index in range(layers):
        # A prefetch of depth d may start once layer index - d + 1 has begun.
        start = max(done, gathered[index])
        while len(gathered) < min(index + 1 + depth, layers):
            link_free = max(link_free, start) + gather_s
            gathered.append(link_free)
        done = start + compute_s
        if scatter_s:
            link_free = max(link_free, done) + scatter_s
    return max(done, link_free)


def local_updates(step_s: float, sync_s: float, every: int, *, overlap: float = 0.0) -> float:
    """Seconds per step when replicas synchronize only every H steps (DiLoCo, CO2).

    Args:
        step_s: seconds of a step without synchronization.
        sync_s: seconds of one synchronization of the outer gradient.
        every: H, steps between synchronizations.
        overlap: share of the synchronization that runs behind the next H steps (CO2: 1 where
            H step_s >= sync_s).

    Returns:
        Average seconds per step. Sources: Douillard et al. arXiv:2311.08105 (DiLoCo), Sun et al.
        arXiv:2401.16265 (CO2).
    """
    positive_int("every", every)
    fraction("overlap", overlap)
    hidden = min(overlap * sync_s, every * step_s)
    return step_s + (sync_s - hidden) / every
