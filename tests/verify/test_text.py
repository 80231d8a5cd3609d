"""The parser: shapes, instructions, source tables, and what is no HLO."""

import random

import jax.numpy as jnp
import pytest

from autoshard.errors import AutoshardError, HloFormatError
from autoshard.verify import collectives, parse_module
from autoshard.verify._module import Source
from autoshard.verify._shapes import Shape, bits, take_shape


@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        ("pred", 8),
        ("s2", 2),
        ("s4", 4),
        ("u4", 4),
        ("s8", 8),
        ("u64", 64),
        ("f4e2m1fn", 4),
        ("f8e4m3fn", 8),
        ("f8e5m2", 8),
        ("f8e8m0fnu", 8),
        ("bf16", 16),
        ("f32", 32),
        ("c64", 64),
        ("c128", 128),
        ("token", 0),
    ],
)
def test_width(dtype: str, width: int) -> None:
    assert bits(dtype) == width


@pytest.mark.parametrize(
    ("text", "size", "bytes_"),
    [
        ("f32[]", 1, 4),
        ("f32[16,32]{1,0}", 512, 2048),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 1024, 2048),
        ("s4[3,5]{1,0:E(4)}", 15, 8),  # 7.5 bytes
        ("pred[7]{0}", 7, 7),
        ("f32[0,4]{1,0}", 0, 0),
        ("f32[<=10,4]{1,0}", 40, 160),
        ("token[]", 0, 0),
        ("()", 0, 0),
        ("(f32[2]{0}, (bf16[3]{0}, token[]), u32[]{:S(2)})", 6, 18),
    ],
)
def test_shape(text: str, size: int, bytes_: int) -> None:
    shape, end = take_shape(text + " rest")
    assert (shape.size, shape.bytes) == (size, bytes_)
    assert end == len(text)


def test_nested_tuple_keeps_its_structure() -> None:
    shape, _ = take_shape("((f32[2]{0}), f32[8]{0})")
    assert shape.elements == (Shape("tuple", elements=(Shape("f32", (2,)),)), Shape("f32", (8,)))
    assert [leaf.dims for leaf in shape.leaves] == [(2,), (8,)]


MODULE = """\
HloModule jit_step, is_scheduled=true, replica_count=2, num_partitions=4

FileNames
1 "/home/me/train.py"
2 "/home/me/model.py"

FunctionNames
1 "main"
2 "Block.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=2 end_column=9}
2 {file_name_id=2 function_name_id=2 line=31 end_line=31 column=0 end_column=4}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

ENTRY %main (p: (f32[4], s32[])) -> f32[4] {
  %p = (f32[4]{0}, /*index=1*/s32[]) parameter(0), metadata={op_name="state[\\'w\\']"}
  %name.with-dash_1 = f32[4]{0} get-tuple-element(%p), index=0
  %table = s32[2]{0} constant({1, 2})
  ROOT %sum.2 = f32[4]{0} add(f32[4]{0} %name.with-dash_1, f32[4]{0} %name.with-dash_1), \
metadata={op_name="a, b={(" stack_frame_id=2}, backend_config={"s":"x\\"y, }"}, last=1
}
"""


def test_module() -> None:
    module = parse_module(MODULE)
    assert (module.name, module.partitions, module.entry) == ("jit_step", 8, "main")
    assert list(module.computations) == ["add.1", "main"]
    main = module.computations["main"]
    assert [i.opcode for i in main.instructions.values()] == [
        "parameter",
        "get-tuple-element",
        "constant",
        "add",
    ]
    assert main.root.name == "sum.2"
    # Operands printed with their shapes, brackets and commas in strings.
    assert main.root.operands == ("name.with-dash_1", "name.with-dash_1")
    assert main.root.attribute("last") == "1"
    assert main.root.metadata["op_name"] == "a, b={("
    assert main.instructions["p"].metadata["op_name"] == "state['w']"
    assert module.source(main.root) == Source("/home/me/model.py", 31)
    assert module.source(main.instructions["p"]) is None


def test_names_without_percent_signs() -> None:
    module = parse_module(MODULE.replace("%", ""))
    assert module.computations["main"].root.operands == ("name.with-dash_1", "name.with-dash_1")


def test_source_in_metadata_itself() -> None:
    older = MODULE.replace("stack_frame_id=2", 'source_file="/a b.py" source_line=12')
    module = parse_module(older)
    assert module.source(module.computations["main"].root) == Source("/a b.py", 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an HLO module begins with 'HloModule', this text with nothing"),
        ("module @jit_f {\n}", "this text with 'module @jit_f {'"),
        ("HloModule m\n", "no ENTRY computation"),
        ("HloModule m\n\nhello\n", "line 3: this is neither a computation nor a table\n    hello"),
        ("HloModule m\nENTRY %e (p: f32[]) -> f32[] {\n", "line 2: computation %e is not closed"),
        ("HloModule m\nENTRY %e () -> f32[] {\n}", "line 2: %e has no ROOT"),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  what is this\n}",
            "line 3: this is no instruction: expected '%name = shape opcode(operands)'",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = float add()\n}",
            "line 3: expected a shape, found 'float add()'",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = f32[x] add()\n}",
            "f32[x] has a dimension that is no number",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = (f32[] f32[]) tuple()\n}",
            "tuple shape is not closed",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = f32[] add(%b, (\n}",
            "expected 'opcode(operands)' behind the shape",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = f32[] copy(%a)\n}",
            "%a is used before it is defined",
        ),
        (
            "HloModule m\nENTRY %e () -> f32[] {\n  ROOT %a = f32[] call(), to_apply=%f\n}",
            "%a calls %f, which is not there",
        ),
    ],
)
def test_what_is_no_hlo(text: str, message: str) -> None:
    with pytest.raises(HloFormatError) as raised:
        parse_module(text)
    assert message in str(raised.value)
    assert str(raised.value).endswith("Mend it: pass what compiled.as_text() returns, unchanged")


def test_computations_in_a_circle() -> None:
    text = (
        "HloModule m\n"
        "%f (p: f32[]) -> f32[] {\n  %p = f32[] parameter(0)\n"
        "  ROOT %c = f32[] call(%p), to_apply=%g\n}\n"
        "%g (p: f32[]) -> f32[] {\n  %p = f32[] parameter(0)\n"
        "  ROOT %c = f32[] call(%p), to_apply=%f\n}\n"
        "ENTRY %e (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}\n"
    )
    with pytest.raises(HloFormatError, match="call each other in a circle"):
        collectives(text, {"x": 1})


def test_damaged_text_is_read_or_refused(mesh_2x4, struct, compile_text) -> None:
    """Whatever is cut out of a text or put into it, no error but autoshard's own comes out."""
    import jax

    def f(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c.T) @ c, None), x, None, length=3)[0]

    text = compile_text(f, struct(mesh_2x4, (16, 32), "data", "model"))
    assert collectives(text, mesh_2x4)
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        at = rng.randrange(len(text))
        cut = rng.choice([0, 1, 1, 5, 40])
        put = rng.choice(["", "0", "7", "{", "}", "(", ")", ",", '"', "%", "=", "\n", "x"])
        try:
            collectives(text[:at] + put + text[at + cut :], mesh_2x4)
        except AutoshardError:
            refused += 1
    assert refused > 20
