"""Forms that other backends print: asynchronous pairs, fused and split collectives."""

import pytest

from autoshard.errors import HloFormatError
from autoshard.verify import Collective, collectives

MESH = {"data": 2, "model": 4}


def entry(body: str, *, before: str = "") -> tuple[Collective, ...]:
    text = f"HloModule m, num_partitions=8\n\n{before}\nENTRY %main (p: f32[8]) -> f32[8] {{\n"
    return collectives(text + body + "}\n", MESH)


def test_all_gather_pair() -> None:
    (one,) = entry("""\
  %p = f32[8]{0} parameter(0)
  %s = (f32[8]{0}, f32[32]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %d = f32[32]{0} all-gather-done(%s)
""")
    assert (one.kind, one.axes, one.is_async) == ("all-gather", ("model",), True)
    assert (one.operand_bytes, one.result_bytes) == (32, 128)


def test_combined_all_gather_pair() -> None:
    (one,) = entry("""\
  %p = f32[8]{0} parameter(0)
  %q = bf16[4,2]{1,0} parameter(1)
  %s = ((f32[8]{0}, bf16[4,2]{1,0}), (f32[16]{0}, bf16[8,2]{1,0})) all-gather-start(%p, %q), \
replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  ROOT %d = (f32[16]{0}, bf16[8,2]{1,0}) all-gather-done(%s)
""")
    assert (one.axes, one.n_operands, one.dtypes) == (("data",), 2, ("f32", "bf16"))
    assert (one.operand_bytes, one.result_bytes) == (32 + 16, 64 + 32)


def test_all_reduce_pair() -> None:
    """The start's shape is the result's alone."""
    (one,) = entry("""\
  %p = f32[8]{0} parameter(0)
  %q = f32[] parameter(1)
  %s = (f32[8]{0}, f32[]) all-reduce-start(%p, %q), replica_groups={}, to_apply=%sum
  ROOT %d = (f32[8]{0}, f32[]) all-reduce-done(%s)
""")
    assert (one.kind, one.axes) == ("all-reduce", ("data", "model"))
    assert one.operand_bytes == one.result_bytes == 36
    assert one.scalar_bytes == 4


def test_permute_pair() -> None:
    (one,) = entry("""\
  %p = bf16[16,64]{0,1:T(8,128)(2,1)S(1)} parameter(0)
  %s = (bf16[16,64]{0,1:T(8,128)(2,1)S(1)}, bf16[16,64]{0,1}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%p), source_target_pairs={{0,4},{4,0}}
  ROOT %d = bf16[16,64]{0,1} collective-permute-done(%s)
""")
    assert (one.kind, one.axes, one.group_size) == ("collective-permute", ("data",), 2)
    assert one.operand_bytes == one.result_bytes == one.traffic_bytes == 2048


def test_sugared_and_wrapped_async() -> None:
    """XLA prints an asynchronous reduce-scatter by its name, or as a call of a computation."""
    sugared = entry("""\
  %p = f32[8]{0} parameter(0)
  %s = ((f32[8]{0}), f32[2]{0}, u32[]) reduce-scatter-start(%p), replica_groups=[2,4]<=[8], \
dimensions={0}, to_apply=%sum
  %u = ((f32[8]{0}), f32[2]{0}, u32[]) reduce-scatter-update(%s)
  ROOT %d = f32[2]{0} reduce-scatter-done(%u)
""")
    wrapped = entry(
        """\
  %p = f32[8]{0} parameter(0)
  %s = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%p), calls=%wrapped
  %u = ((f32[8]{0}), f32[2]{0}, u32[]) async-update(%s), calls=%wrapped
  ROOT %d = f32[2]{0} async-done(%u), calls=%wrapped
""",
        before="""\
%wrapped (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[2]{0} reduce-scatter(%p), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%sum
}, execution_thread="main"
""",
    )
    for found in (sugared, wrapped):
        (one,) = found
        assert (one.kind, one.axes, one.count) == ("reduce-scatter", ("model",), 1)
        assert (one.operand_bytes, one.result_bytes, one.is_async) == (32, 8, True)


def test_start_without_a_result() -> None:
    with pytest.raises(HloFormatError, match=r"all-gather-start has to return \(operands, results"):
        entry("""\
  %p = f32[8]{0} parameter(0)
  ROOT %s = f32[32]{0} all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}
""")


def test_broadcast_and_ragged() -> None:
    found = entry("""\
  %p = f32[8]{0} parameter(0)
  %b = f32[8]{0} collective-broadcast(%p), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %o = s64[4]{0} constant({0, 1, 2, 3})
  ROOT %r = f32[8]{0} ragged-all-to-all(%b, %p, %o, %o, %o, %o), replica_groups=[2,4]<=[8]
""")
    assert [(one.kind, one.axes) for one in found] == [
        ("collective-broadcast", ("data",)),
        ("ragged-all-to-all", ("model",)),
    ]
    assert found[1].operand_bytes == 32 + 32 + 4 * 32


def step(name: str, result: str) -> str:
    """One TPU fusion that does part of the all-gather with channel 7 of chain 0."""
    return f"""\
%{name} (p: f32[8]) -> f32[16] {{
  %p = f32[8]{{0:T(256)}} parameter(0)
  %g = f32[16]{{0:T(256)}} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {{'axis_0'}}, dimensions={{0}}, \
frontend_attributes={{chain_id="0"}}
  ROOT %c = f32[16]{{0}} {result}
}}

"""


def test_collective_in_steps() -> None:
    """A TPU collective that several fusions carry along is one collective, and in a loop runs."""
    (one,) = entry(
        """\
  %p = f32[8]{0} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, f32[8]{0}) tuple(%zero, %p)
  %w = (s32[]{:T(128)}, f32[8]{0}) while(%t), condition=%wide.condition, body=%wide.body
  ROOT %r = f32[8]{0} get-tuple-element(%w), index=1
""",
        before=step("begin", 'custom-call(%g), custom_call_target="AsyncCollectiveStart"')
        + step("go_on", "add(%g, %g)")
        + step("end", 'custom-call(%g), custom_call_target="AsyncCollectiveDone"')
        + """\
%wide.body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = s32[]{:T(128)} constant(1)
  %s = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %j = s32[]{:T(128)S(6)} copy(%i)
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %a = f32[16]{0} fusion(%x), kind=kCustom, calls=%begin
  %b = f32[16]{0} fusion(%x), kind=kOutput, calls=%go_on
  %c = f32[16]{0} fusion(%x), kind=kCustom, calls=%end, metadata={op_name="jit(f)/squeeze"}
  %k = s32[]{:T(128)} add(%j, %one)
  ROOT %t = (s32[]{:T(128)}, f32[8]{0}) tuple(%k, %x)
}

%wide.condition (s: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(4)
  %s = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %l = pred[]{:T(512)} compare(%i, %n), direction=LT
}
""",
    )
    assert (one.kind, one.axes, one.count) == ("all-gather", ("data",), 4)


def test_all_reduce_fused_with_its_slices() -> None:
    (one,) = entry(
        """\
  %p = bf16[16,8]{1,0} parameter(0)
  %q = bf16[4,16]{1,0} parameter(1)
  ROOT %f = (bf16[8,8]{1,0}, bf16[4,8]{1,0}) fusion(%p, %q), kind=kCustom, calls=%scatter, \
metadata={op_name="jit(step)/dot_general" source_file="model.py" source_line=3}
""",
        before="""\
%scatter (a: bf16[16,8], b: bf16[4,16]) -> (bf16[8,8], bf16[4,8]) {
  %a = bf16[16,8]{1,0} parameter(0)
  %b = bf16[4,16]{1,0} parameter(1)
  %r = (bf16[16,8]{1,0}, bf16[4,16]{1,0}) all-reduce(%a, %b), \
replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%sum
  %x = bf16[16,8]{1,0} get-tuple-element(%r), index=0
  %table = u32[8]{0} constant({0, 0, 0, 0, 1, 1, 1, 1})
  %id = u32[] partition-id()
  %row = u32[1]{0} dynamic-slice(%table, %id), dynamic_slice_sizes={1}
  %group = u32[] bitcast(%row)
  %eight = u32[] constant(8)
  %mine = u32[] multiply(%group, %eight)
  %zero = u32[] constant(0)
  %d = bf16[8,8]{1,0} dynamic-slice(%x, %mine, %zero), dynamic_slice_sizes={8,8}
  %y = bf16[4,16]{1,0} get-tuple-element(%r), index=1
  %e = bf16[4,8]{1,0} dynamic-slice(%y, %zero, %mine), dynamic_slice_sizes={4,8}
  ROOT %t = (bf16[8,8]{1,0}, bf16[4,8]{1,0}) tuple(%d, %e)
}
""",
    )
    assert (one.kind, one.axes, one.group_size) == ("reduce-scatter", ("data",), 2)
    assert (one.operand_bytes, one.result_bytes) == (384, 192)
    assert one.traffic_bytes == 192
    # The all-reduce has no metadata: its fusion's counts.
    assert (one.op_name, one.source_file, one.source_line) == (
        "jit(step)/dot_general",
        "model.py",
        3,
    )
