"""The text of a rule, and rules written as text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.errors import RuleError, RuleSyntaxError
from autoshard.rules import Factor, FactorKind, OpRule, format_rule, parse, rule_from_text
from autoshard.rules._build import factor_names
from autoshard.rules._rule import COMBINES

MATMUL = "([i, k], [k, j])->([i, j]) {i=8, k=4, j=16} reduction={k:sum}"


@st.composite
def rules(draw) -> OpRule:
    """Any rule: every factor somewhere, none twice in one array."""
    fresh = factor_names()
    names = [next(fresh) for _ in range(draw(st.integers(0, 30)))]
    factors = {}
    for name in names:
        kind = draw(st.sampled_from(FactorKind))
        combine = draw(st.sampled_from(COMBINES)) if kind is FactorKind.REDUCTION else None
        factors[name] = Factor(name, draw(st.integers(0, 99)), kind, combine)
    arrays: list[tuple[tuple[str, ...], ...]] = []
    for _ in range(draw(st.integers(1, 4)) if names else draw(st.integers(0, 2))):
        here = draw(st.permutations([n for n in names if draw(st.booleans())]))
        dims: list[tuple[str, ...]] = []
        while here:
            count = draw(st.integers(0, 3))
            dims.append(tuple(here[:count]))
            here = here[count:]
        arrays.append(tuple(dims))
    used = {n for dims in arrays for dim in dims for n in dim}
    split = draw(st.integers(0, len(arrays)))
    return OpRule(
        operands=tuple(arrays[:split]),
        results=tuple(arrays[split:]),
        factors={n: f for n, f in factors.items() if n in used},
    )


@given(rules())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_round_trip(rule: OpRule) -> None:
    text = format_rule(rule)
    assert parse(text) == rule
    assert format_rule(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "()->()",
        "([])->([])",
        "([1, i], [j k])->([k, 1 , i])  {i=2,j=3,k=4} halo={i} whole={j}",
        "([i])->([i]) {i=0}",
        MATMUL,
    ],
)
def test_reads(text: str) -> None:
    assert parse(format_rule(parse(text))) == parse(text)


def test_order_of_names_does_not_matter() -> None:
    one = parse("([i, j])->([i]) {j=4, i=8} whole={j}")
    two = parse("([i, j])->([i]) {i=8, j=4} whole={j}")
    assert one == two and str(one) == str(two)


def test_kinds() -> None:
    rule = parse(
        "([i, j, k, l])->([i, j]) {i=2, j=3, k=4, l=5} reduction={k:max} halo={j} whole={l}"
    )
    assert rule.factors["k"] == Factor("k", 4, FactorKind.REDUCTION, "max")
    assert rule.of_kind(FactorKind.HALO) == ("j",)
    assert rule.shardable == ("i", "j", "k")


WRONG = [
    "",
    "([i])",
    "([i])->([i]",
    "([i])->([i])",
    "([i])->([i]) {i=a}",
    "([i])->([i]) {j=2}",
    "([i])->([i]) {i=2, i=3}",
    "([i])->([i]) {i=2} reduction={i}",
    "([i])->([i]) {i=2} reduction={i:mean}",
    "([i])->([i]) {i=2} wholly={i}",
    "([i])->([i]) {i=2} whole={i} halo={i}",
    "([i,])->([i]) {i=2}",
    "([i])->([i]) {i=2} §",
    "([..., i])->([..., i]) {i=2}",
    "([i, ...])->([i]) {i=2}",
    "([i, i])->([i]) {i=2}",
]


def test_errors_teach(golden) -> None:
    shown = []
    for text in WRONG:
        with pytest.raises(RuleError) as error:
            parse(text)
        shown.append(str(error.value))
    golden("rules_syntax_errors", "\n\n".join(shown))


def test_syntax_error_keeps_its_values() -> None:
    with pytest.raises(RuleSyntaxError) as error:
        parse("([i])->([i]) {i=a}")
    assert error.value.text == "([i])->([i]) {i=a}"
    assert error.value.text[error.value.position] == "a"


def zeros(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.zeros(shape) for shape in shapes]


def test_template() -> None:
    rule = rule_from_text("([i, k], [k, j])->([i, j]) reduction={k:sum}")
    assert rule(zeros((8, 4), (4, 16)), zeros((8, 16)), {}) == parse(MATMUL)


@pytest.mark.parametrize("lead", [(), (3,), (3, 5)])
def test_template_with_leading_dimensions(lead: tuple[int, ...]) -> None:
    rule = rule_from_text("([..., i], [i])->([...]) reduction={i:sum}")
    got = rule(zeros((*lead, 4), (4,)), zeros(lead), {})
    got.check([(*lead, 4), (4,)], [lead])
    assert len(got.of_kind(FactorKind.PARALLEL)) == len(lead)


def test_template_with_a_compound_dimension() -> None:
    rule = rule_from_text("([i j])->([i, j])")
    got = rule(zeros((24,)), zeros((4, 6)), {})
    assert str(got) == "([i j])->([i, j]) {i=4, j=6}"


@pytest.mark.parametrize(
    ("template", "operands", "results"),
    [
        ("([i])->([i])", [(4,), (4,)], [(4,)]),
        ("([i])->([i])", [(4, 2)], [(4,)]),
        ("([i j])->([i j])", [(24,)], [(24,)]),
        ("([..., i])->([i])", [()], [(4,)]),
    ],
)
def test_template_that_does_not_fit(template, operands, results) -> None:
    with pytest.raises(RuleError):
        rule_from_text(template)(zeros(*operands), zeros(*results), {})
