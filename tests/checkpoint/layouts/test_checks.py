"""What a layout says is checked against names, shapes and types before a byte is read."""

from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest

from autoshard.checkpoint.layouts import Known, apply, parse
from autoshard.errors import (
    LayoutAmbiguityError,
    LayoutBindingError,
    LayoutCoverageError,
    LayoutDataError,
    LayoutError,
    LayoutSyntaxError,
)

A = np.arange(12, dtype=np.float32).reshape(3, 4)


class Sealed:
    """A source that must not be read."""

    def __init__(self, source):
        self.tensors = source.tensors


def refused(kit, kind, rules, arrays, head=""):
    source = cast(Any, Sealed(kit.MemorySource(arrays)))
    with pytest.raises(kind) as info:
        layout = parse(f"layout: test\n{head}\nrules:\n{rules}").layout(
            Known(side="foreign", infos=source.tensors())
        )
        apply(layout, source)
    assert "Mend it: " in str(info.value)
    return info.value


def test_a_tensor_without_a_rule(kit):
    error = refused(
        kit, LayoutCoverageError, "- {from: wte.weight, to: wte}", {"wte.weight": A, "wpe": A}
    )
    assert error.unmatched == ("wpe",)
    assert error.exit_code == 4


def test_a_rule_without_a_tensor(kit):
    rules = "- {from: a, to: a}\n- {from: b, to: b}"
    assert refused(kit, LayoutCoverageError, rules, {"a": A}).unused == ("line 5: b",)
    assert kit.importing("rules: [{from: a, to: a}, {from: b, to: b, optional: true}]", {"a": A})


def test_two_rules_for_a_tensor(kit):
    rules = "- {from: 'h.{l:d}.w', to: 'x{l}'}\n- {match: 'h.*w', to: y, optional: true}"
    error = refused(kit, LayoutAmbiguityError, rules, {"h.0.w": A})
    assert error.tensor == "h.0.w"
    assert len(error.rules) == 2


def test_two_tensors_for_a_leaf(kit):
    rules = "- {from: a, to: x}\n- {from: b, to: x}"
    assert refused(kit, LayoutAmbiguityError, rules, {"a": A, "b": A}).tensor == "x"


def test_a_missing_part(kit):
    rules = "- {from: ['{l:d}.q', '{l:d}.k'], to: '{l:d}', op: fuse, dim: 0, count: 2}"
    error = refused(kit, LayoutError, rules, {"0.q": A, "0.k": A, "1.q": A})
    assert "finds 1.q, but not 1.k" in str(error)


def test_a_missing_rank(kit):
    rules = "- {from: 'r{tp:d}.w', op: shard, axis: tp, dim: 0, to: w}"
    arrays = {"r0.w": A, "r2.w": A}
    error = refused(kit, LayoutError, rules, arrays, "axes: {tp: 3}")
    assert "needs tp = 0 … 2, found 0, 2" in str(error)


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ("{unflatten: {dim: 1, sizes: [3, 2]}}", "does not divide into 3 × 2"),
        ("{fused: {dim: 1, widths: [3, 2]}}", "add up to 5, but dimension 1 has size 4"),
        ("{fused: {dim: 0, count: 2}}", "does not divide into 2 equal parts"),
        ("{strip: {dim: 0, size: 2, padded: 8}}", "expects size 8 along dimension 0"),
        ("{rotary: {dim: 0, to: halves}}", "odd size 3"),
        ("{transpose: [0, 0]}", "is no permutation of 2 dimensions"),
        ("{cast: {from: bfloat16, to: float32}}", "casts from bfloat16, got float32[3,4]"),
        ("{cast: {from: float32, to: int32}}", "would cut off fractions"),
        ("{unflatten: {dim: 2, sizes: [1]}}", "has no dimension 2"),
    ],
)
def test_shapes_that_do_not_fit(kit, op, says):
    to = "[x, y]" if "fused" in op else "x"
    error = refused(kit, LayoutError, f"- {{from: a, to: {to}, ops: [{op}]}}", {"a": A})
    assert says in str(error)
    assert error.line == 4


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{from: a, to: x, ops: [transpoes]}", "did you mean transpose?"),
        ("{from: a, to: x, ops: [{strip: {dmi: 0}}]}", "lacks dim"),
        ("{from: a, to: x, ops: [{rotary: {dim: 0, to: halves, by: 2}}]}", "does not know 'by'"),
        ("{from: a, too: x}", "lacks to"),
        ("{from: 'h.{l:d}', to: x}", "has the holes none, but the keys that are left are l"),
        ("{from: a, to: x, ops: [{unflatten: {dim: 0, sizes: [n]}}]}", "n in 'n' is no binding"),
        ("{from: 'a.{', to: x}", "a brace that is no hole"),
        ("{match: '(a', to: x}", "is no regular expression"),
        ("{drop: a}", "without a reason"),
        ("{from: a, to: x, when: 'open(1)'}", "is not allowed"),
        ("{from: a, to: x, ops: [{shard: {axis: tp, dim: 0}}]}", "tp, which is no key"),
        ("{from: '${p}a', to: x}", "speaks of ${p}"),
    ],
)
def test_rules_that_say_nothing(kit, rule, says):
    assert says in str(refused(kit, LayoutSyntaxError, f"- {rule}", {"a": A}))


def test_quantities_that_nothing_tells(kit):
    head = "bindings: {heads: {config: n_head, foreign: {match: 'q$', dim: 0}}}"
    error = refused(kit, LayoutBindingError, "- {from: a, to: x}", {"a": A}, head)
    assert error.name == "heads"
    assert "n_head of the config, tensors like q$" in str(error)


def test_yaml_that_would_build_objects():
    with pytest.raises(LayoutSyntaxError):
        parse("rules: !!python/object/apply:os.system ['true']")


def test_a_key_twice():
    with pytest.raises(LayoutSyntaxError, match="stands there twice"):
        parse("rules:\n- {from: a, to: b, to: c}")


def test_replicas_that_differ_are_found_while_reading(kit):
    other = A.copy()
    other[2, 1] = np.nextafter(other[2, 1], 99)
    rules = "{axes: {tp: 2}, rules: [{from: 'r{tp:d}', op: replicated, axis: tp, to: x}]}"
    _, view = kit.importing(rules, {"r0": A, "r1": other})
    view.read("x", (slice(0, 2), slice(0, 4)))
    with pytest.raises(LayoutDataError, match=r"r0 and r1: .* differ at \[2, 1\]") as info:
        view.read("x", (slice(1, 3), slice(1, 4)))
    assert info.value.exit_code == 4


def test_replicas_compare_by_bits(kit):
    nan = np.full((2,), np.nan, np.float32)
    rules = "{axes: {tp: 2}, rules: [{from: 'r{tp:d}', op: replicated, axis: tp, to: x}]}"
    _, view = kit.importing(rules, {"r0": nan, "r1": nan})
    assert np.isnan(view.read("x", (slice(0, 2),))).all()
    zeros = np.zeros(2, np.float32)
    _, view = kit.importing(rules, {"r0": zeros, "r1": -zeros})
    with pytest.raises(LayoutDataError):
        view.read("x", (slice(0, 2),))


def test_padding_that_holds_something(kit):
    rules = "rules: [{from: a, to: x, ops: [{strip: {dim: 0, size: 2, padded: 3}}]}]"
    _, view = kit.importing(rules, {"a": A})
    view.read("x", (slice(0, 1), slice(0, 4)))
    with pytest.raises(LayoutDataError, match="from 2 to 3 along dimension 0, is not zero"):
        view.read("x", (slice(0, 2), slice(0, 4)))
    _, view = kit.importing(rules.replace("padded: 3", "padded: 3, check: none"), {"a": A})
    np.testing.assert_array_equal(view.read("x", (slice(0, 2), slice(0, 4))), A[:2])
    assert [str(loss) for loss in view.losses] == ["a: 1 rows of padding, unchecked"]


def test_sums_and_means(kit):
    parts = {f"r{i}": np.array([1.5, i, -0.0], np.float32) for i in range(4)}
    rules = "{axes: {tp: 4}, rules: [{from: 'r{tp:d}', op: %s, axis: tp, to: x}]}"
    _, view = kit.importing(rules % "partial", parts)
    np.testing.assert_array_equal(view.read("x", (slice(0, 3),)), np.array([6, 6, 0], np.float32))
    _, view = kit.importing(rules % "average", parts)
    np.testing.assert_array_equal(
        view.read("x", (slice(0, 3),)), np.array([1.5, 1.5, 0], np.float32)
    )
    bytes_ = {f"r{i}": np.array([100], np.int8) for i in range(4)}
    _, view = kit.importing(rules % "partial", bytes_)
    with pytest.raises(LayoutDataError, match="does not fit into int8"):
        view.read("x", (slice(0, 1),))


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("block", ["[0, 0]", "[1, 0]", "[4, 4]", "[3, 5]"])
def test_quantised_values(kit, rng, dtype, block):
    quant = f"{{block: {block}, scale: float32, from: {dtype}, to: float32}}"
    text = f"rules: [{{from: [w, s], to: x, ops: [{{quant: {quant}}}]}}]"
    values = rng.normal(size=(10, 11)).astype(np.float32)
    values[:3] = 0
    source = kit.MemorySource({"x": values})
    layout = parse(text).layout(Known(side="tree", infos=source.tensors()))
    exported = apply(layout.inverse(), source)
    assert [loss.loss.rounds for loss in exported.losses] == [True]
    stored = kit.contents(exported)
    largest = 127 if dtype == "int8" else float(ml_dtypes.finfo(dtype).max)
    assert np.abs(stored["w"].astype(np.float32)).max() == largest

    back = apply(layout, kit.MemorySource(stored))
    whole = kit.contents(back)["x"]
    error = np.abs(whole - values).max()
    step = np.abs(values).max() * {"int8": 0.5 / 127, "float8_e4m3fn": 2**-4}.get(dtype, 2**-3)
    assert 0 < error <= step * 1.001
    piece = back.read("x", (slice(2, 7), slice(4, 9)))
    np.testing.assert_array_equal(piece, whole[2:7, 4:9])
    # Quantised again, the values are those that were stored.
    again = kit.contents(apply(layout.inverse(), back))
    np.testing.assert_array_equal(again["w"], stored["w"])


def test_pipeline_stages_of_uneven_depth(kit):
    text = """
    axes: {pp: 2}
    rules:
    - from: 'stage{pp:d}.{i:d}.w'
      to: 'h_{l}/w'
      ops: [{derive: {key: l, stage: pp, local: i, sizes: [2, 3]}}]
    """
    arrays = {f"stage{p}.{i}.w": A + 10 * p + i for p, n in [(0, 2), (1, 3)] for i in range(n)}
    layout, view = kit.importing(text, arrays)
    assert list(view.tensors()) == [f"h_{i}/w" for i in range(5)]
    kit.same_bits(kit.contents(apply(layout.inverse(), view)), arrays)
    _, view = kit.importing(text.replace("[2, 3]", "3"), {k: A for k in arrays})
    assert sorted(view.tensors()) == [f"h_{i}/w" for i in (0, 1, 3, 4, 5)]


def test_regular_expressions_import_and_export(kit):
    text = r"rules: [{match: 'transformer.h.(?P<l>\d+).w', to: 'h_{l}/w'}]"
    arrays = {f"transformer.h.{i}.w": A + i for i in range(11)}
    layout, view = kit.importing(text, arrays)
    kit.same_bits(kit.contents(apply(layout.inverse(), view)), arrays)
    text = r"rules: [{match: '(?P<l>a|b).*w', to: '{l}'}]"
    layout, view = kit.importing(text, {"a.w": A, "bw": A})
    with pytest.raises(LayoutError, match="cannot write names"):
        apply(layout.inverse(), view)


def test_dropped_tensors_are_told(kit):
    rules = "rules: [{from: a, to: x}, {drop: 'h.{l:d}.mask', reason: a causal mask}]"
    layout, view = kit.importing(rules, {"a": A, "h.0.mask": A})
    assert view.dropped == {"h.0.mask": "a causal mask"}
    assert list(apply(layout.inverse(), view).tensors()) == ["a"]
