"""All-reduces that stand for reduce-scatters, as the CPU backend leaves them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autoshard.verify import collectives, parse_module

Compile = Callable[..., str]
Struct = Callable[..., jax.ShapeDtypeStruct]


def matmul_onto(
    mesh: Mesh, struct: Struct, compile_text: Compile, out: PartitionSpec
) -> tuple[str, str, bool]:
    """Sum partial products over `model`; how the only all-reduce looks."""
    a = struct(mesh, (16, 32), None, "model")
    b = struct(mesh, (32, 24), "model", None)
    text = compile_text(jnp.matmul, a, b, out=NamedSharding(mesh, out))
    (one,) = collectives(text, mesh)
    assert one.axes == ("model",)
    return one.kind, one.logical_kind, one.is_sliced


def test_sum_of_which_each_keeps_a_slice(
    mesh_2x4: Mesh, struct: Struct, compile_text: Compile
) -> None:
    spec = PartitionSpec("model")
    kind, logical, _ = matmul_onto(mesh_2x4, struct, compile_text, spec)
    assert kind in ("all-reduce", "reduce-scatter")  # a backend may do better
    assert logical == "reduce-scatter"


def test_sum_that_all_keep(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    spec = PartitionSpec()
    assert matmul_onto(mesh_2x4, struct, compile_text, spec) == ("all-reduce", "all-reduce", False)


def scan_step(ws, x):
    """A gradient step over a scanned stack of layers, and the loss."""

    def loss(ws):
        y = jax.lax.scan(lambda c, w: (c + jnp.tanh(c @ w), None), x, ws)[0]
        return jnp.mean(y**2)

    value, grads = jax.value_and_grad(loss)(ws)
    return ws - 0.1 * grads, value


def test_sharded_gradients_in_a_loop(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    """The offsets of the slices inside the loop are computed outside of it."""
    ws = struct(mesh_2x4, (5, 64, 64), None, ("data", "model"), None)
    x = struct(mesh_2x4, (32, 64), ("data", "model"), None)
    text = compile_text(scan_step, ws, x, out=(ws.sharding, None))
    (gradient,) = [
        one
        for one in collectives(text, mesh_2x4)
        if one.kind in ("all-reduce", "reduce-scatter") and not one.is_scalar
    ]
    assert gradient.logical_kind == "reduce-scatter"
    assert (gradient.axes, gradient.count) == (("data", "model"), 5)
    if gradient.kind == "all-reduce":
        module = parse_module(text)
        places = [
            name
            for name, computation in module.computations.items()
            if any(i.opcode == "partition-id" for i in computation.instructions.values())
        ]
        assert places == [module.entry]


def test_replicated_gradients_in_a_loop(
    mesh_2x4: Mesh, struct: Struct, compile_text: Compile
) -> None:
    """Eight layers on eight devices: slicing one layer off is not slicing one's own part off."""
    ws = struct(mesh_2x4, (8, 64, 64))
    x = struct(mesh_2x4, (32, 64), ("data", "model"), None)
    text = compile_text(scan_step, ws, x, out=(ws.sharding, None))
    found = [one for one in collectives(text, mesh_2x4) if not one.is_scalar]
    assert found
    assert not any(one.is_sliced for one in found)


TEMPLATE = """\
HloModule m, num_partitions=4

%sum (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}}

%shard (full: f32[8], offset: u32[]) -> f32[2] {{
  %full = f32[8]{{0}} parameter(0)
  %offset = u32[] parameter(1)
  ROOT %d = f32[2]{{0}} dynamic-slice(%full, %offset), dynamic_slice_sizes={{2}}
}}

%offset (n: u32[]) -> u32[] {{
  %n = u32[] parameter(0)
  %id = u32[] partition-id()
  ROOT %o = u32[] multiply(%id, %n)
}}

%double (full: f32[8]) -> f32[8] {{
  %full = f32[8]{{0}} parameter(0)
  ROOT %d = f32[8]{{0}} add(%full, %full)
}}

ENTRY %main (a: f32[8], b: f32[8], i: u32[]) -> (f32[2], f32[2]) {{
  %a = f32[8]{{0}} parameter(0)
  %b = f32[8]{{0}} parameter(1)
  %i = u32[] parameter(2)
  %id = u32[] partition-id()
  %two = u32[] constant(2)
  %mine = u32[] multiply(%id, %two)
  %r = (f32[8]{{0}}, f32[8]{{0}}, f32[]) all-reduce(%a, %b, %one), replica_groups=[1,4]<=[4], \
to_apply=%sum
  %x = f32[8]{{0}} get-tuple-element(%r), index=0
  %y = f32[8]{{0}} get-tuple-element(%r), index=1
  %z = f32[] get-tuple-element(%r), index=2
{uses}
  ROOT %t = (f32[2]{{0}}, f32[2]{{0}}) tuple(%p, %q)
}}
""".replace("  %r = (", "  %one = f32[] constant(1)\n  %r = (")

SLICE_X = "  %p = f32[2]{0} dynamic-slice(%x, %mine), dynamic_slice_sizes={2}\n"
SLICE_Y = "  %q = f32[2]{0} dynamic-slice(%y, %mine), dynamic_slice_sizes={2}"


@pytest.mark.parametrize(
    ("uses", "sliced_bytes"),
    [
        (SLICE_X + SLICE_Y, 64),
        (SLICE_X + "  %q = f32[2]{0} fusion(%y, %mine), kind=kLoop, calls=%shard", 64),
        (SLICE_X + "  %k = f32[8]{0} copy(%y)\n" + SLICE_Y.replace("%y", "%k"), 64),
        (
            "  %o = u32[] fusion(%two), kind=kLoop, calls=%offset\n"
            + SLICE_X.replace("%mine", "%o")
            + SLICE_Y,
            64,
        ),
        (SLICE_X + SLICE_Y.replace("%mine", "%i"), 32),  # the offset is an argument
        (SLICE_X + "  %q = f32[2]{0} slice(%y), slice={[0:2]}", 32),  # all take the same
        (SLICE_X + SLICE_Y + "\n  %k = f32[8]{0} add(%y, %a)", 32),  # another use
        (SLICE_X + SLICE_Y + "\n  %k = f32[8]{0} fusion(%x), calls=%double", 32),
        (SLICE_X + "  %q = f32[2]{0} dynamic-slice(%a, %mine), dynamic_slice_sizes={2}", 32),
    ],
)
def test_uses(uses: str, sliced_bytes: int) -> None:
    (one,) = collectives(TEMPLATE.format(uses=uses), {"x": 4})
    assert (one.operand_bytes, one.scalar_bytes, one.sliced_bytes) == (68, 4, sliced_bytes)
    assert one.is_sliced == (sliced_bytes == 64)
    assert one.logical_kind == ("reduce-scatter" if sliced_bytes == 64 else "all-reduce")
    assert one.kind == "all-reduce"


def only_all_reduce(shape: str, lines: str) -> str:
    return f"""\
HloModule m, num_partitions=4

ENTRY %main (a: {shape}) -> {shape} {{
  %a = {shape}{{0}} parameter(0)
  %mine = u32[] partition-id()
{lines}}}
"""


def test_outside_a_fusion_it_stays_an_all_reduce() -> None:
    text = only_all_reduce(
        "f32[8]",
        """\
  %r = f32[8]{0} all-reduce(%a), replica_groups={}, to_apply=%sum
  ROOT %d = f32[2]{0} dynamic-slice(%r, %mine), dynamic_slice_sizes={2}
""",
    )
    (one,) = collectives(text, {"x": 4})
    assert (one.kind, one.is_sliced, one.traffic_bytes) == ("all-reduce", True, 48)


def test_result_of_the_program_is_used_whole() -> None:
    """In a scheduled module the root need not come last."""
    text = only_all_reduce(
        "f32[8]",
        """\
  ROOT %r = f32[8]{0} all-reduce(%a), replica_groups={}, to_apply=%sum
  %d = f32[2]{0} dynamic-slice(%r, %mine), dynamic_slice_sizes={2}
""",
    )
    (one,) = collectives(text, {"x": 4})
    assert not one.is_sliced


def test_slice_of_a_single_number() -> None:
    text = only_all_reduce(
        "f32[1]",
        """\
  %r = f32[1]{0} all-reduce(%a), replica_groups={}, to_apply=%sum
  ROOT %d = f32[1]{0} dynamic-slice(%r, %mine), dynamic_slice_sizes={1}
""",
    )
    (one,) = collectives(text, {"x": 4})
    assert (one.is_scalar, one.is_sliced, one.sliced_bytes) == (True, False, 0)
