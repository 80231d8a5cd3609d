import jax.numpy as jnp
import pytest

from autoshard.errors import LabellingError
from autoshard.plan import Labelling, MeshShape, Spec, check_label, project
from autoshard.plan._labelling import inferred_label, split_axes
from autoshard.rules import parse

MESH = MeshShape(("x", "y"), (2, 4))
DOT = parse("([i, k], [k, j])->([i, j]) {i=8, k=16, j=32} reduction={k:sum}")
SPLIT = parse("([a b, c])->([a, b, c]) {a=2, b=12, c=3}")
PAD = parse("([h])->([h]) {h=10} halo={h}")


def spec(text: str) -> Spec:
    """`spec("xy,-")`: axes of one letter."""
    return Spec(tuple(tuple(d.replace("-", "")) for d in text.split(",")))


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ({}, "-,-"),
        ({"a": ("x",)}, "x,-"),
        ({"a": ("x",), "b": ("y",)}, "xy,-"),
        ({"b": ("y",)}, "-,-"),  # a minor factor below a whole major one: no spec says it
        ({"a": (), "b": ("x",)}, "-,-"),
    ],
)
def test_a_minor_factor_counts_once_the_major_one_is_used_up(label, expected):
    assert project(SPLIT.operands[0], SPLIT, label, (24, 3), MESH) == spec(expected)


def test_both_sides_of_a_reshape_agree():
    label = {"a": ("x",), "b": ("y",)}
    assert project(SPLIT.results[0], SPLIT, label, (2, 12, 3), MESH) == spec("x,y,-")


def test_a_halo_dimension_that_does_not_divide_here_is_whole():
    label = {"h": ("x",)}
    assert project(PAD.operands[0], PAD, label, (10,), MESH) == spec("x")
    assert project(PAD.results[0], PAD, label, (11,), MESH) == spec("-")


@pytest.mark.parametrize(
    ("rule", "label", "problem"),
    [
        (DOT, {"q": ("x",)}, "it has no factor 'q'"),
        (DOT, {"i": ("z",)}, "the mesh has no axis 'z'"),
        (DOT, {"i": ("x",), "j": ("x",)}, "axis 'x' is on two factors"),
        (DOT, {"i": ("x", "x")}, "axis 'x' is on two factors"),
        (parse("([i])->([i]) {i=8} whole={i}"), {"i": ("x",)}, "factor 'i' has to stay whole"),
        (SPLIT, {"c": ("x",)}, "factor 'c' of size 3 is not divisible by x = 2"),
        (DOT, {"i": ("x", "y"), "k": ()}, None),
        (PAD, {"h": ("y",)}, None),
        (parse("([i])->([i]) {i=8} whole={i}"), {"i": ()}, None),
    ],
)
def test_what_a_label_may_say(rule, label, problem):
    if problem is None:
        check_label(rule, label, MESH, "op")
        return
    with pytest.raises(LabellingError) as caught:
        check_label(rule, label, MESH, "op")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("dim", "axes", "expected"),
    [
        ("ab", (), {}),
        ("ab", ("x",), {"a": ("x",)}),
        ("ab", ("x", "y"), {"a": ("x",), "b": ("y",)}),
        ("ab", ("y",), None),  # 4 does not divide 2, which is not used up
        ("b", ("y",), {"b": ("y",)}),
        ("b", ("y", "x"), None),  # 12 / 4 = 3
        ("c", ("x",), None),
    ],
)
def test_axes_of_a_dimension_over_its_factors(dim, axes, expected):
    assert split_axes(SPLIT, tuple(dim), axes, MESH) == expected


def test_split_axes_is_the_inverse_of_project():
    for label in ({"a": ("x",)}, {"a": ("x",), "b": ("y",)}):
        said = project(SPLIT.operands[0], SPLIT, label, (24, 3), MESH)
        assert split_axes(SPLIT, SPLIT.operands[0][0], said.dims[0], MESH) == label


def test_nothing_goes_on_a_whole_factor():
    rule = parse("([i])->([i]) {i=8} whole={i}")
    assert split_axes(rule, ("i",), ("x",), MESH) is None
    assert split_axes(rule, ("i",), (), MESH) == {}


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        (("-,-", "-,-"), {}),
        (("x,-", "-,-"), {"i": ("x",)}),
        (("x,-", "-,y"), {"i": ("x",), "j": ("y",)}),
        (("-,y", "y,-"), {"k": ("y",)}),
        (("-,y", "-,-"), {"k": ("y",)}),
        (("-,xy", "x,-"), {"k": ("x", "y")}),  # one is a prefix of the other
        (("-,yx", "x,-"), None),
        (("x,-", "-,x"), None),  # one axis for two factors
        (("x,-", None), {"i": ("x",)}),
    ],
)
def test_what_a_partitioner_would_infer(operands, expected):
    given = [None if o is None else spec(o) for o in operands]
    found = inferred_label(DOT, given, MESH)
    assert (found and {k: v for k, v in found.items() if v}) == expected


def test_a_labelling_reads_specs_off_labels(ruled):
    program = ruled(lambda a, b: a @ b, (8, 16), (16, 32))
    (dot,) = (op for op in program.program.ops if op.primitive == "dot_general")
    rule = program.rules[dot.id]
    (i,), (k,) = rule.operands[0]
    labelling = Labelling(program, MESH, {dot.id: {i: ("x",), k: ("y",)}})
    assert labelling.operand_spec(dot.id, 0) == spec("x,y")
    assert labelling.operand_spec(dot.id, 1) == spec("y,-")
    assert labelling.result_spec(dot.id, 0) == labelling.value_spec(dot.results[0]) == spec("x,-")
    assert labelling.partial_axes(dot.id) == ("y",)


def test_a_labelling_checks_its_labels(ruled):
    program = ruled(lambda a: jnp.sin(a), (7, 3))
    (op,) = (op for op in program.program.ops if op.primitive == "sin")
    name = program.rules[op.id].results[0][0][0]
    with pytest.raises(LabellingError, match=r"sin \(op \d+\).*7 is not divisible by x = 2"):
        Labelling(program, MESH, {op.id: {name: ("x",)}})


def test_regions_have_no_label(ruled):
    import jax

    program = ruled(lambda x: jax.lax.scan(lambda c, _: (c * 2, None), x, None, length=3)[0], (8,))
    (scan,) = (op for op in program.program.ops if op.primitive == "scan")
    with pytest.raises(LabellingError, match="it owns regions"):
        Labelling(program, MESH, {scan.id: {"i": ("x",)}})
