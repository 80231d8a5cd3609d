"""A user's own primitive: its rule is one line, and its proof another."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir

from autoshard.errors import RuleError, RuleViolationError
from autoshard.rules import (
    _registry,
    check_rule,
    register_rule,
    rule_for,
    rule_from_text,
    with_rules,
)
from autoshard.tracing import trace


@pytest.fixture
def affine(monkeypatch) -> Primitive:
    """``x @ w`` plus, by its params, a constant vector of the output's width."""
    monkeypatch.setattr(_registry, "_RULES", dict(_registry._RULES))
    primitive = Primitive("test_custom_affine")

    def implementation(x, w, *, width):
        return x @ w + jnp.ones((*x.shape[:-1], width))

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(lambda x, w, *, width: x.update(shape=(*x.shape[:-1], width)))
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
    return primitive


OPERANDS = jax.ShapeDtypeStruct((2, 4, 6), jnp.float32), jax.ShapeDtypeStruct((6, 8), jnp.float32)


def local(params, shard):
    return {"width": shard.result_shape(0)[-1]}


def test_a_rule_in_one_line(affine: Primitive) -> None:
    register_rule(str(affine))(rule_from_text("([..., k], [k, j])->([..., j]) whole={k}"))
    proofs = check_rule(affine, *OPERANDS, localize=local, width=8)
    assert [p.method for p in proofs] == ["shards"] * 3


def test_params_that_repeat_a_size_are_told_of(affine: Primitive) -> None:
    register_rule(str(affine))(rule_from_text("([..., k], [k, j])->([..., j]) whole={k}"))
    with pytest.raises(RuleViolationError, match="a shard does not run"):
        check_rule(affine, *OPERANDS, width=8)


def test_a_constant_that_is_added_twice_is_caught(affine: Primitive) -> None:
    register_rule(str(affine))(rule_from_text("([..., k], [k, j])->([..., j]) reduction={k:sum}"))
    with pytest.raises(RuleViolationError, match="'k' is not reduction"):
        check_rule(affine, *OPERANDS, localize=local, width=8)


def test_inside_a_function(affine: Primitive) -> None:
    register_rule(str(affine))(rule_from_text("([..., k], [k, j])->([..., j]) whole={j, k}"))

    @jax.jit
    def function(x, w):
        return jnp.tanh(affine.bind(x, w, width=8))

    assert {p.primitive for p in check_rule(function, *OPERANDS)} == {str(affine), "tanh"}


def test_without_a_rule(affine: Primitive) -> None:
    with pytest.raises(RuleError, match="has no rule") as error:
        check_rule(affine, *OPERANDS, width=8)
    assert 'register_rule("test_custom_affine")' in str(error.value)


def test_what_contributing_shows_is_short() -> None:
    """A primitive with its rule and proof, in under 20 lines; that it runs, the docs' tests say."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split("## Adding an op rule")[1]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip()]
    assert "register_rule(" in block and "check_rule(" in block
    assert len(lines) < 20


def twice(x):
    """A Pallas kernel, whose params hold the whole shape."""

    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, name="twice", interpret=True)(x)


def test_a_kernel_has_a_rule_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(_registry, "_RULES", dict(_registry._RULES))
    x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    assert with_rules(trace(twice, (x,))).unknown == {"pallas_call:twice": 1}
    register_rule("pallas_call:twice")(rule_from_text("([i, j])->([i, j])"))
    assert with_rules(trace(twice, (x,))).unknown == {}
    with pytest.raises(RuleViolationError):
        check_rule(twice, x)
    assert [p.factor for p in check_rule(twice, x, retrace=True)] == ["i", "j"]


def partitioned(function, **options):
    wrapped = custom_partitioning(function)
    wrapped.def_partition(
        partition=lambda *_: None, infer_sharding_from_operands=lambda *_: None, **options
    )
    return wrapped


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"sharding_rule": "b i k, k j -> b i j", "reduction_factors": ("k",)},
            "([i, j, k], [k, l])->([i, j, l]) {i=2, j=4, k=6, l=8} whole={k}",
        ),
        (
            {"sharding_rule": "... k, k j -> ... j", "need_replication_factors": ("j", "k")},
            "([i, j, k], [k, l])->([i, j, l]) {i=2, j=4, k=6, l=8} whole={k, l}",
        ),
        (
            {"sharding_rule": "b i (k l), (k l) j -> b i j", "k": 2, "l": 3},
            "([i, j, k l], [k l, m])->([i, j, m]) {i=2, j=4, k=2, l=3, m=8}",
        ),
        (
            {"sharding_rule": lambda *_: "b i k, k j -> b i j"},
            "([i, j, k], [l, m])->([n, o, p]) {i=2, j=4, k=6, l=6, m=8, n=2, o=4, p=8} "
            "whole={i, j, k, l, m, n, o, p}",
        ),
    ],
)
def test_custom_partitioning_brings_its_rule(options, expected: str) -> None:
    jaxpr = jax.make_jaxpr(partitioned(lambda x, w: jnp.matmul(x, w), **options))(*OPERANDS).jaxpr
    (equation,) = jaxpr.eqns
    avals = [v.aval for v in equation.invars], [v.aval for v in equation.outvars]
    assert str(rule_for("custom_partitioning", *avals, equation.params)) == expected
