"""`check_rule`: prove a rule by running its op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend import core

from autoshard.errors import RuleError, RuleViolationError
from autoshard.rules._registry import has_rule, rule_for, rule_name
from autoshard.rules._rule import FactorKind, OpRule
from autoshard.rules.oracle._borders import prove_by_borders
from autoshard.rules.oracle._cut import smallest_cut
from autoshard.rules.oracle._local import LOCALIZE, POSITIONAL, Localize, RunShard, Shard, run_local
from autoshard.rules.oracle._mesh import collectives
from autoshard.rules.oracle._op import Arrays, Op, to_device, to_host
from autoshard.rules.oracle._shards import prove_by_shards
from autoshard.rules.oracle._values import random_operands

DRAWS = 8
"""Sets of operands for each op: with few, a wrong maximum may be right by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorProof:
    """How one factor of one op was proven.

    Args:
        primitive: The op.
        rule: Text of its rule.
        factor: Name of the factor.
        kind: Its kind.
        method: ``"shards"`` (run, combined, compared), ``"borders"`` (dependence measured) or
            ``"mesh"`` (compiled: no collective).
        shards: Into how many parts it was cut.
        measure: For shards the largest relative difference, for borders the largest share of the
            operands that one part of a result needs, for a mesh zero.
    """

    primitive: str
    rule: str
    factor: str
    kind: FactorKind
    method: str
    shards: int
    measure: float


def check_rule(
    target: Callable[..., Any] | core.Primitive,
    *operands: Any,
    rule: OpRule | None = None,
    localize: Localize | None = None,
    retrace: bool = False,
    seed: int = 0,
    **params: Any,
) -> tuple[FactorProof, ...]:
    """Prove the rule of an op, or of every op of a function, by execution.

    Each parallel and each reduction factor is cut: the shards run on their own, their results are
    concatenated or combined, and the outcome has to be the whole one. For a halo factor, no part of
    the results may depend on all of the operands. Whole factors claim nothing.

    Args:
        target: A primitive, or a function, whose equations are then checked one by one.
        *operands: Arrays, or shapes and types (`jax.ShapeDtypeStruct`) to draw random values for.
        rule: The rule to check instead of the registered one; the function then has one equation.
        localize: For a primitive whose params repeat a global size: params of the whole op and a
            `Shard`, to the params that differ on it.
        retrace: Run the function itself on each shard, not the primitive that it made for the
            whole: for kernels whose params are made from shapes. The function has one equation,
            and takes that one's operands.
        seed: Of the random values.
        **params: Params of a primitive.

    Returns:
        One proof per factor that can be sharded.

    Raises:
        RuleViolationError: A factor is not what the rule says.
        RuleError: There is no rule, or it does not fit the shapes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jax.ShapeDtypeStruct((4, 6), jnp.float32)
        >>> [p.factor for p in check_rule(jnp.matmul, x, jax.ShapeDtypeStruct((6, 2), jnp.float32))]
        ['i', 'j', 'k']
    """
    rng = np.random.default_rng(seed)
    if isinstance(target, core.Primitive):
        primitive = target

        def function(*arrays: Any) -> Any:
            return primitive.bind(*arrays, **params)
    else:
        if params:
            raise RuleError(
                f"params {sorted(params)} belong to a primitive, but the target is a function.\n"
                f"Mend it: check_rule(functools.partial(function, {next(iter(params))}=...), ...)"
            )
        function = target
    jaxpr = jax.make_jaxpr(function)(*operands).jaxpr
    equations = list(_equations(jaxpr))
    if (rule is not None or retrace) and len(equations) != 1:
        raise RuleError(
            f"{'retrace' if retrace else 'rule'}= speaks of one op, but the function has "
            f"{len(equations)}: {', '.join(str(e.primitive) for e in equations)}.\n"
            "Mend it: check_rule(primitive, *operands, rule=rule, **params)"
        )
    run: RunShard | None = None
    if retrace:
        run = partial(_run_again, function)
    elif localize is not None:
        run = partial(run_local, localize=localize)
    given = {
        var: to_host(jax.numpy.asarray(operand))
        for var, operand in zip(jaxpr.invars, jax.tree.leaves(operands), strict=True)
        if not isinstance(operand, jax.ShapeDtypeStruct)
    }
    proofs: list[FactorProof] = []
    for equation in equations:
        op = op_of(equation, rule)
        known = {
            index: np.asarray(var.val, op.operands[index].dtype)
            if hasattr(var, "val")
            else given[var]
            for index, var in enumerate(equation.invars)
            if hasattr(var, "val") or var in given
        }
        proofs += prove(op, rng, known=known, run=run)
    return tuple(proofs)


def _run_again(function: Callable[..., Any], shard: Shard, operands: Arrays) -> Arrays:
    """Run the user's function on the operands of a shard."""
    avals = shard.op.operands
    arrays = [to_device(o, aval.dtype) for o, aval in zip(operands, avals, strict=True)]
    return tuple(to_host(out) for out in jax.tree.leaves(function(*arrays)))


def op_of(equation: Any, rule: OpRule | None = None) -> Op:
    """The op of a jaxpr's equation, under its registered rule or another one.

    Args:
        equation: The equation.
        rule: The rule to use instead.

    Returns:
        The op.

    Raises:
        RuleError: No rule is registered, or it does not fit the shapes.
    """
    primitive = str(equation.primitive)
    operands = tuple(v.aval for v in equation.invars)
    results = tuple(v.aval for v in equation.outvars)
    if rule is not None:
        rule.check([a.shape for a in operands], [a.shape for a in results])
    elif not has_rule(primitive, equation.params):
        name = rule_name(primitive, equation.params)
        raise RuleError(
            f"primitive {name!r} has no rule: it would run replicated.\n"
            f'Mend it: register_rule("{name}")(rule_from_text("([i])->([i])"))'
        )
    else:
        rule = rule_for(primitive, operands, results, equation.params)
    return Op(equation.primitive, equation.params, operands, results, rule)


def prove(
    op: Op,
    rng: np.random.Generator,
    *,
    known: Mapping[int, np.ndarray] | None = None,
    run: RunShard | None = None,
) -> tuple[FactorProof, ...]:
    """Prove every factor of an op that can be sharded.

    Args:
        op: The op.
        rng: Draws the operands.
        known: Operand index → its value, where that is given.
        run: Runs one shard, where the primitive with its params does not do.

    Returns:
        One proof per factor.

    Raises:
        RuleViolationError: A factor is not what the rule says.
        RuleError: The op returns nothing but NaN, so that nothing could differ.
    """
    known = known or {}

    def draw() -> Arrays:
        return tuple(known.get(i, array) for i, array in enumerate(random_operands(op, rng)))

    draws = [(operands, op.run(operands)) for operands in (draw() for _ in range(DRAWS))]
    results = [array for _, whole in draws for array in whole]
    if results and all(a.dtype.kind == "f" and a.size and np.isnan(a).all() for a in results):
        raise RuleError(
            f"{op.primitive} returns only NaN for its operands: nothing would be proven.\n"
            "Mend it: pass arrays from the op's domain"
        )
    proofs: list[FactorProof] = []
    for name in op.rule.shardable:
        factor = op.rule.factors[name]
        shards = smallest_cut(factor.size)
        if factor.kind is FactorKind.HALO:
            method, measure = "borders", prove_by_borders(op, name, draw)
        elif shards == 1:
            continue  # no elements, nothing to cut
        elif run is not None or _runs_on_shards(op, name):
            method, runner = "shards", run or run_local
            measure = max(prove_by_shards(op, *drawn, name, shards, runner) for drawn in draws)
        else:
            method, measure = "mesh", _prove_on_mesh(op, name, shards)
        proofs.append(
            FactorProof(
                primitive=str(op.primitive),
                rule=op.rule.text,
                factor=name,
                kind=factor.kind,
                method=method,
                shards=shards,
                measure=measure,
            )
        )
    return tuple(proofs)


def _runs_on_shards(op: Op, factor: str) -> bool:
    """Whether a shard can be run: a factor of results alone is made from the op's params."""
    primitive = str(op.primitive)
    return (
        primitive in LOCALIZE
        or primitive in POSITIONAL
        or any(side == "operand" for side, _, _ in op.rule.places(factor))
    )


def _prove_on_mesh(op: Op, factor: str, shards: int) -> float:
    """A factor of results alone is legal by itself; compiled, it must not communicate."""
    if shards > len(jax.devices()):
        raise RuleError(
            f"factor {factor!r} of {op.rule.text} is proven on {shards} devices; there are "
            f"{len(jax.devices())}.\nMend it: XLA_FLAGS=--xla_force_host_platform_device_count=8"
        )
    if found := collectives(op, factor, shards):
        raise RuleViolationError(
            primitive=str(op.primitive),
            rule=op.rule.text,
            factor=factor,
            kind=op.rule.factors[factor].kind.value,
            problem=f"on {shards} devices the compiled op communicates: {dict(found)}",
        )
    return 0.0


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Equations that have a rule or no body; the bodies of the others are walked."""
    for equation in jaxpr.eqns:
        known = has_rule(str(equation.primitive), equation.params)
        bodies = [] if known else list(_bodies(equation.params))
        if not bodies:
            yield equation
        for body in bodies:
            yield from _equations(body)


def _bodies(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
