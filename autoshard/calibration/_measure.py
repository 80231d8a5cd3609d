"""Micro-benchmarks: matrix products, copies, and collectives per mesh axis."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

# Sides of the square products, and bytes of copies and collectives (per device).
MATMUL_SIDES = (64, 128, 256, 512, 768, 1024, 1536, 2048, 4096, 8192)
COPY_BYTES = (2**16, 2**18, 2**20, 2**22, 2**24, 2**26, 2**28)
# Results of one collective on all devices together: emulated devices share one memory.
_MOST_BYTES = 2**30
COLLECTIVE_BYTES = (2**12, 2**14, 2**16, 2**18, 2**20, 2**22, 2**24, 2**26)


@dataclass(slots=True)
class Samples:
    """Raw measurements.

    Attributes:
        matmul: (FLOPs, seconds).
        copy: (bytes read plus written, seconds).
        collectives: (kind, axis, participants) -> [(bytes as the cost model counts, seconds)].
        dtype: of the products.
    """

    matmul: list[tuple[float, float]] = field(default_factory=list)
    copy: list[tuple[float, float]] = field(default_factory=list)
    collectives: dict[tuple[str, str, int], list[tuple[float, float]]] = field(default_factory=dict)
    dtype: str = "bf16"


def _seconds(run: Callable[[], Any], budget_s: float) -> float:
    """Fastest of a few runs, compilation excluded."""
    jax.block_until_ready(run())
    best = np.inf
    start = time.perf_counter()
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - begin)
        if time.perf_counter() - start > budget_s:
            break
    return float(best)


def _local_kernels(device: Any, dtype: str, samples: Samples, deadline: float) -> None:
    kind = jnp.float32 if dtype == "fp32" else jnp.bfloat16
    multiply = jax.jit(jnp.matmul)
    now = time.perf_counter()
    middle = now + (deadline - now) / 2
    seconds = 0.0
    for side in MATMUL_SIDES:
        # A product of the next size takes about eight times as long, and runs a few times.
        if time.perf_counter() + 8 * seconds > middle:
            break
        a = jax.device_put(jnp.ones((side, side), kind), device)
        seconds = _seconds(lambda a=a: multiply(a, a), 0.5)
        samples.matmul.append((2.0 * side**3, seconds))
    add = jax.jit(lambda x: x + 1)
    for size in COPY_BYTES:
        if time.perf_counter() > deadline:
            break
        x = jax.device_put(jnp.ones(size // 4, jnp.float32), device)
        seconds = _seconds(lambda x=x: add(x), 0.3)
        samples.copy.append((2.0 * size, seconds))
        if seconds > 0.5:
            break


def _collective_bodies(axis: str, size: int) -> Iterator[tuple[str, Callable[..., Any], float]]:
    """(kind, body on local shards, bytes of the cost model per byte of local shard)."""
    ring = [(i, (i + 1) % size) for i in range(size)]
    yield "all-reduce", lambda x: jax.lax.psum(x, axis), 1.0
    yield "all-gather", lambda x: jax.lax.all_gather(x, axis, tiled=True), float(size)
    yield "reduce-scatter", lambda x: jax.lax.psum_scatter(x, axis, tiled=True), 1.0
    yield (
        "all-to-all",
        lambda x: jax.lax.all_to_all(x, axis, split_axis=0, concat_axis=0, tiled=True),
        float(size),
    )
    yield "permute", lambda x: jax.lax.ppermute(x, axis, ring), 1.0


def _collectives(mesh: Mesh, samples: Samples, deadline: float) -> None:
    names = mesh.axis_names
    cases = [
        (axis, kind, body, per_local)
        for axis in names
        if mesh.shape[axis] > 1
        for kind, body, per_local in _collective_bodies(axis, mesh.shape[axis])
    ]
    start = time.perf_counter()
    for index, (axis, kind, body, per_local) in enumerate(cases):
        # Every collective on every axis gets its share of the time.
        until = start + (index + 1) / len(cases) * (deadline - start)
        spec = PartitionSpec(names)
        run = jax.jit(
            jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        )
        found = samples.collectives.setdefault((kind, axis, mesh.shape[axis]), [])
        for local in COLLECTIVE_BYTES:
            late = found and time.perf_counter() > until
            if late or local * per_local * mesh.size > _MOST_BYTES:
                break
            count = local // 4 * mesh.size
            x = jax.device_put(jnp.ones(count, jnp.float32), jax.sharding.NamedSharding(mesh, spec))
            seconds = _seconds(lambda run=run, x=x: run(x), 0.15)
            found.append((local * per_local, seconds))
            if seconds > 0.1:
                break


def measure(
    devices: Sequence[Any],
    mesh_shape: Sequence[int] | None = None,
    *,
    dtype: str = "bf16",
    limit_s: float = 60.0,
    progress: Callable[[str], None] | None = None,
) -> Samples:
    """Run the micro-benchmarks.

    Args:
        devices: JAX devices of one kind.
        mesh_shape: axis sizes whose collectives are timed; default: one axis over all devices
            and, where they factor, a second mesh of two axes.
        dtype: of the products, "bf16" or "fp32".
        limit_s: seconds after which no further size is started.
        progress: called with what comes next.

    Returns:
        Raw measurements.
    """
    say = progress or (lambda _: None)
    start = time.perf_counter()
    samples = Samples(dtype=dtype)
    say("matrix products and copies")
    _local_kernels(devices[0], dtype, samples, start + limit_s / 3)
    shapes: list[tuple[int, ...]] = [tuple(mesh_shape)] if mesh_shape else [(len(devices),)]
    if not mesh_shape and len(devices) >= 4 and len(devices) % 2 == 0:
        shapes.append((len(devices) // 2, 2))
    for index, shape in enumerate(shapes):
        names = tuple(f"axis{i}" for i in range(len(shape)))
        say("collectives on a mesh of " + "x".join(map(str, shape)))
        mesh = Mesh(np.asarray(devices).reshape(shape), names)
        share = (index + 1) / len(shapes)
        _collectives(mesh, samples, start + limit_s * (1 / 3 + 2 / 3 * share))
    return samples
