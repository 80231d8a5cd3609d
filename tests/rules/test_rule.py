"""Invariants of factors, rules, the builder and the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard.errors import RuleError
from autoshard.rules import (
    Factor,
    FactorKind,
    OpRule,
    RuleBuilder,
    _registry,
    has_rule,
    parse,
    register_rule,
    registered,
    rule_for,
    rule_from_text,
)

MATMUL = parse("([i, k], [k, j])->([i, j]) {i=8, k=4, j=16} reduction={k:sum}")


def test_factor_rejects_contradictions() -> None:
    with pytest.raises(RuleError, match="size is not negative"):
        Factor("i", -1)
    with pytest.raises(RuleError, match="exactly the reduction factors"):
        Factor("i", 2, FactorKind.REDUCTION)
    with pytest.raises(RuleError, match="exactly the reduction factors"):
        Factor("i", 2, FactorKind.WHOLE, "sum")
    with pytest.raises(RuleError, match="known: sum"):
        Factor("i", 2, FactorKind.REDUCTION, "mean")


def test_rule_names_each_factor_once_and_all() -> None:
    with pytest.raises(RuleError, match="stands twice"):
        OpRule(operands=((("i",), ("i",)),), results=(), factors={"i": Factor("i", 2)})
    with pytest.raises(RuleError, match="are described"):
        OpRule(operands=((("i",),),), results=(), factors={})
    with pytest.raises(RuleError, match="are described"):
        OpRule(operands=(), results=(), factors={"i": Factor("i", 2)})


@pytest.mark.parametrize(
    ("operands", "results"),
    [
        ([(8, 4)], [(8, 16)]),
        ([(8, 4), (4, 16, 1)], [(8, 16)]),
        ([(8, 4), (4, 16)], [(16, 8)]),
        ([(8, 4), (4, 16)], []),
    ],
)
def test_check_compares_with_shapes(operands, results) -> None:
    MATMUL.check([(8, 4), (4, 16)], [(8, 16)])
    with pytest.raises(RuleError):
        MATMUL.check(operands, results)


def test_places() -> None:
    assert list(MATMUL.places("j")) == [("operand", 1, 1), ("result", 0, 1)]


def test_builder_names_in_order_of_appearance_and_fills_the_rest() -> None:
    arrays = [np.zeros((2, 3)), np.zeros((3, 5))]
    builder = RuleBuilder(arrays, [np.zeros((5, 2))])
    builder.add(5, operands=[(1, 1)], results=[(0, 0)]).add(2, operands=[(0, 0)], results=[(0, 1)])
    rule = builder.finish()
    assert str(rule) == "([i, j], [k, l])->([l, i]) {i=2, j=3, k=3, l=5} whole={j, k}"


def test_builder_rejects_a_factor_without_a_place() -> None:
    with pytest.raises(RuleError, match="without a place"):
        RuleBuilder([np.zeros(2)], []).add(3).finish()


def test_names_do_not_run_out() -> None:
    array = np.zeros((2,) * 30)
    rule = RuleBuilder([array], []).finish()
    assert len(rule.factors) == 30


def test_registered_once() -> None:
    with pytest.raises(RuleError, match="already has a rule"):
        register_rule("dot_general")(rule_from_text("([i])->([i])"))


def test_unknown_primitive_is_whole() -> None:
    assert not has_rule("no_such_primitive")
    rule = rule_for("no_such_primitive", [np.zeros((2, 3))], [np.zeros(4)], {})
    assert str(rule) == "([i, j])->([k]) {i=2, j=3, k=4} whole={i, j, k}"


def test_a_rule_that_does_not_fit_names_its_primitive(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_RULES", {})
    register_rule("test_rule_misfit")(lambda operands, results, params: MATMUL)
    with pytest.raises(RuleError, match=r"the rule of 'test_rule_misfit' does not fit"):
        rule_for("test_rule_misfit", [np.zeros(2)], [np.zeros(2)], {})


def test_registry_is_sorted() -> None:
    assert list(registered()) == sorted(registered())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_rules_of_empty_and_single_arrays(shape: tuple[int, ...]) -> None:
    """No rule stumbles over dimensions of size zero or one."""

    def function(x):
        y = jnp.sort(jnp.exp(x).reshape(-1))
        return y.sum() + jnp.concatenate([y, y]).max(initial=0.0) + jnp.stack([x, x], 0).sum()

    for equation in jax.make_jaxpr(function)(jnp.zeros(shape)).eqns:
        avals = [v.aval for v in equation.invars], [v.aval for v in equation.outvars]
        rule_for(str(equation.primitive), *avals, equation.params)
