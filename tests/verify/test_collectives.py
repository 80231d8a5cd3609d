"""Collectives of programs that this process compiles: kinds, axes, bytes, source lines."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.errors import HloMeshError
from autoshard.verify import MeshAxes, collectives, traffic_bytes

Compile = Callable[..., str]
Struct = Callable[..., jax.ShapeDtypeStruct]


def subsets(mesh: Mesh) -> list[tuple[str, ...]]:
    sizes = range(1, len(mesh.axis_names) + 1)
    return [axes for n in sizes for axes in itertools.combinations(mesh.axis_names, n)]


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def test_partial_sums_are_all_reduced(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    for axes in subsets(mesh):
        a = struct(mesh, (16, 32), None, axes)
        b = struct(mesh, (32, 24), axes, None)
        (one,) = collectives(compile_text(jnp.matmul, a, b, out=replicated(mesh)), mesh)
        d = math.prod(mesh.shape[axis] for axis in axes)
        assert (one.kind, one.axes, one.group_size) == ("all-reduce", axes, d)
        assert one.operand_bytes == one.result_bytes == 16 * 24 * 4
        assert one.traffic_bytes == 2 * (d - 1) / d * 16 * 24 * 4
        assert (one.count, one.n_operands, one.dtypes) == (1, 1, ("f32",))
        assert (one.is_scalar, one.is_regular, one.is_sliced) == (False, True, False)
        assert one.op_name.endswith("dot_general")


def test_gather(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    for axes in subsets(mesh):
        x = struct(mesh, (16, 32), axes, None)
        (one,) = collectives(compile_text(lambda x: x, x, out=replicated(mesh)), mesh)
        d = math.prod(mesh.shape[axis] for axis in axes)
        assert (one.kind, one.axes, one.group_size) == ("all-gather", axes, d)
        assert (one.operand_bytes, one.result_bytes) == (16 * 32 * 4 // d, 16 * 32 * 4)
        assert one.traffic_bytes == (d - 1) * 16 * 32 * 4 / d


def test_manual_collectives(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    """Each through shard_map on each axis; the source line is the call's."""
    local = 16 * 32 * 4
    for axis in mesh.axis_names:
        d = mesh.shape[axis]
        shift = [(i, (i + 1) % d) for i in range(d)]
        cases = {
            "all-to-all": (
                lambda x, a=axis: jax.lax.all_to_all(x, a, 1, 0, tiled=True),
                local,
                local,
                local * (d - 1) / d,
            ),
            "collective-permute": (
                lambda x, a=axis, s=shift: jax.lax.ppermute(x, a, s),
                local,
                local,
                local,
            ),
            "reduce-scatter": (
                lambda x, a=axis: jax.lax.psum_scatter(x, a, tiled=True),
                local,
                local // d,
                local * (d - 1) / d,
            ),
            "all-gather": (
                lambda x, a=axis: jax.lax.all_gather(x, a, tiled=True),
                local,
                local * d,
                local * (d - 1),
            ),
        }
        for kind, (f, operand, result, traffic) in cases.items():
            spec = PartitionSpec(mesh.axis_names)
            g = jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)
            text = compile_text(g, struct(mesh, (128, 32), mesh.axis_names, None))
            (one,) = collectives(text, mesh)
            assert (one.kind, one.axes, one.group_size) == (kind, (axis,), d)
            assert (one.operand_bytes, one.result_bytes) == (operand, result)
            assert one.traffic_bytes == traffic
            assert one.source_file == __file__
            assert one.source_line == f.__code__.co_firstlineno


def test_device_order_of_the_mesh_does_not_matter(
    permuted_mesh_2x4: Mesh, struct: Struct, compile_text: Compile
) -> None:
    """Groups name positions in the device assignment: ids would give other axes."""
    mesh = permuted_mesh_2x4
    a = struct(mesh, (16, 32), "data", "model")
    b = struct(mesh, (32, 24), "model", None)
    out = NamedSharding(mesh, PartitionSpec("data"))
    text = compile_text(jnp.matmul, a, b, out=out)
    (one,) = collectives(text, mesh)
    assert one.axes == ("model",)
    by_id = MeshAxes.of(mesh, device_order=range(8))
    assert not collectives(text, by_id)[0].is_regular


def test_part_of_an_axis(struct: Struct, compile_text: Compile) -> None:
    """Sixteen rows in blocks of four over eight devices: neighbours sum, every other gathers."""
    mesh = Mesh(jax.devices(), "x")
    x = struct(mesh, (16, 16), "x", None)
    text = compile_text(lambda x: x.reshape(4, 4, 16).sum(1), x, out=replicated(mesh))
    found = {one.kind: one for one in collectives(text, mesh)}
    assert found["all-reduce"].axes == ("x:(4)2",)
    assert found["all-gather"].axes == ("x:(1)4",)
    assert not found["all-reduce"].is_regular


def test_gradients_are_combined(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    """Data parallel: one all-reduce with one operand per parameter, and the loss with them."""

    def f(w, x):
        def loss(w):
            return jnp.mean((jnp.tanh(x @ w["a"]) @ w["b"]) ** 2)

        return jax.value_and_grad(loss)(w)

    w = {"a": struct(mesh, (32, 64)), "b": struct(mesh, (64, 32))}
    x = struct(mesh, (16, 32), mesh.axis_names, None)
    (one,) = collectives(compile_text(f, w, x), mesh)
    assert (one.kind, one.axes, one.n_operands) == ("all-reduce", tuple(mesh.axis_names), 3)
    assert one.operand_bytes == 2 * 32 * 64 * 4 + 4
    assert one.scalar_bytes == 4
    assert not one.is_scalar


def test_scalar(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    text = compile_text(jnp.sum, struct(mesh, (16, 32), mesh.axis_names[0]))
    (one,) = collectives(text, mesh)
    assert one.is_scalar
    assert one.operand_bytes == 4


def test_axis_of_size_one(struct: Struct, compile_text: Compile) -> None:
    import numpy as np

    mesh = Mesh(np.array(jax.devices()).reshape(1, 8, 1), ("a", "b", "c"))
    x = struct(mesh, (16, 32), ("a", "b", "c"), None)
    (one,) = collectives(compile_text(lambda x: x, x, out=replicated(mesh)), mesh)
    assert one.axes == ("b",)


def test_no_collectives(mesh: Mesh, struct: Struct, compile_text: Compile) -> None:
    x = struct(mesh, (16, 32), mesh.axis_names[0])
    assert collectives(compile_text(jnp.tanh, x), mesh) == ()


def test_mesh_of_another_size(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    text = compile_text(jnp.tanh, struct(mesh_2x4, (16, 32), "data"))
    with pytest.raises(HloMeshError, match=r"jit_tanh is compiled for 8 device\(s\)"):
        collectives(text, {"data": 2, "model": 8})
    alone = compile_text(jnp.tanh, jnp.ones((4,)))
    with pytest.raises(HloMeshError, match=r"compiled for 1 device\(s\), but the mesh"):
        collectives(alone, mesh_2x4)


@pytest.mark.parametrize(
    ("kind", "operand", "result", "traffic"),
    [
        ("all-gather", 100, 400, 300),
        ("all-reduce", 400, 400, 600),
        ("all-to-all", 400, 400, 300),
        ("collective-broadcast", 400, 400, 400),
        ("collective-permute", 400, 400, 400),
        ("ragged-all-to-all", 400, 400, 300),
        ("reduce-scatter", 400, 100, 300),
    ],
)
def test_traffic(kind, operand: int, result: int, traffic: float) -> None:
    assert traffic_bytes(kind, 4, operand, result) == traffic
    assert traffic_bytes(kind, 1, operand, operand) == 0
