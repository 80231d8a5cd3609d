"""Loops and branches: ties, blocks and execution counts."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from autoshard.tracing import TIE, Literal, Op, Program, trace

V = jax.ShapeDtypeStruct((4,), jnp.float32)
S = jax.ShapeDtypeStruct((), jnp.float32)


def only(program: Program, primitive: str) -> Op:
    (op,) = (op for op in program.ops if op.primitive == primitive)
    return op


def ties(program: Program, op: Op) -> list[tuple[str, list, list]]:
    """Kind, shapes of the operands and shapes of the results of each tie."""
    return [
        (
            tie.params["kind"],
            [program.aval(o).shape for o in tie.operands],
            [program.values[r].shape for r in tie.results],
        )
        for tie in (program.ops[t] for t in op.ties)
    ]


def check_invariants(program: Program) -> None:
    """What every reader of a program relies on."""
    for index, op in enumerate(program.ops):
        assert op.id == index
        for k, result in enumerate(op.results):
            value = program.values[result]
            if op.structured:  # its ties make its results
                assert program.ops[value.producer].primitive == TIE
                assert value.producer in op.ties
            else:
                assert (value.producer, value.index) == (op.id, k)
        if op.primitive == TIE:
            assert len(op.params["operand_leading"]) == len(op.operands)
            assert len(op.params["result_leading"]) == len(op.results)
            lead = [
                program.aval(o).shape[n:]
                for o, n in zip(op.operands, op.params["operand_leading"], strict=True)
            ]
            lead += [
                program.values[r].shape[n:]
                for r, n in zip(op.results, op.params["result_leading"], strict=True)
            ]
            assert len(set(lead)) == 1  # one variable on both sides
        for block in op.blocks:
            for i in block.ops:
                assert program.ops[i].parent == op.id
                assert i > op.id
            for value in block.inputs:
                assert program.values[value].producer in op.ties

    def check(ops, inputs, outputs, seen):
        seen = seen | set(inputs)
        for i in ops:
            op = program.ops[i]
            assert {o for o in op.operands if isinstance(o, int)} <= seen
            for block in op.blocks:
                check(block.ops, block.inputs, block.outputs, set())  # sees its inputs alone
            seen |= set(op.results)
        assert {o for o in outputs if isinstance(o, int)} <= seen

    check(program.body.ops, program.body.inputs, program.body.outputs, set())


def test_scan():
    def function(w, c, xs):
        def body(carry, x):
            new = carry * w + x[0]
            return new, (new.sum(), x)

        return lax.scan(body, c, xs, reverse=True)

    program = trace(function, (V, V, jax.ShapeDtypeStruct((7, 2, 4), jnp.float32)))
    check_invariants(program)
    scan = only(program, "scan")
    # JAX itself takes xs, which the body returns as it is, out of the loop.
    assert ties(program, scan) == [
        ("constant", [(4,)], [(4,)]),
        ("scanned input", [(7, 2, 4)], [(2, 4)]),
        ("carry", [(4,), (4,)], [(4,), (4,)]),
        ("scanned output", [()], [(7,)]),
    ]
    assert scan.params["reverse"]
    assert scan.count == 1
    tie = program.ops[scan.ties[2]]
    # Initial value, then what the body returns; carry in the body, then the loop's result.
    assert tie.operands == (scan.operands[1], scan.blocks[0].outputs[0])
    assert tie.results == (scan.blocks[0].inputs[1], scan.results[0])
    assert {program.ops[i].count for i in scan.blocks[0].ops} == {7}
    assert program.ops[scan.ties[1]].params["operand_leading"] == (1,)
    assert program.ops[scan.ties[3]].params["result_leading"] == (1,)


def test_while():
    def function(limit, step, x):
        return lax.while_loop(lambda c: c.sum() < limit, lambda c: c + step, x)

    program = trace(function, (S, V, V))
    check_invariants(program)
    loop = only(program, "while")
    assert ties(program, loop) == [
        ("constant", [()], [()]),
        ("constant", [(4,)], [(4,)]),
        ("carry", [(4,), (4,)], [(4,), (4,), (4,)]),
    ]
    carry = program.ops[loop.ties[2]]
    cond, body = loop.blocks
    assert carry.results == (cond.inputs[1], body.inputs[1], loop.results[0])
    assert carry.operands == (loop.operands[2], body.outputs[0])
    inside = [program.ops[i] for block in loop.blocks for i in block.ops]
    assert {op.count for op in inside} == {1}
    assert not any(op.exact_count for op in inside)
    assert loop.exact_count


def test_cond_with_branches_that_read_different_arrays():
    def function(flag, a, b):
        return lax.cond(flag, lambda: jnp.sin(a), lambda: b * 2.0 + 1.0)

    program = trace(function, (jax.ShapeDtypeStruct((), jnp.bool_), V, V))
    check_invariants(program)
    cond = only(program, "cond")
    assert ties(program, cond) == [
        ("argument", [(4,)], [(4,), (4,)]),
        ("argument", [(4,)], [(4,), (4,)]),
        ("result", [(4,), (4,)], [(4,)]),
    ]
    # The first operand chooses; branch 0 is the one for False.
    bodies = [[program.ops[i].primitive for i in block.ops] for block in cond.blocks]
    assert bodies == [["mul", "add"], ["sin"]]


def test_switch_with_a_branch_that_returns_a_constant():
    def function(i, x):
        return lax.switch(i, [lambda x: x.sum(), lambda x: 0.0, lambda x: x[0]], x)

    program = trace(function, (jax.ShapeDtypeStruct((), jnp.int32), V))
    check_invariants(program)
    cond = only(program, "cond")
    assert len(cond.blocks) == 3
    assert isinstance(cond.blocks[1].outputs[0], Literal)
    assert cond.blocks[1].outputs[0].value == 0.0


def test_remat_ties():
    program = trace(jax.checkpoint(lambda a, b: (jnp.sin(a) * b, b)), (V, V))
    check_invariants(program)
    remat = next(op for op in program.ops if op.structured)
    assert [kind for kind, _, _ in ties(program, remat)] == ["argument"] * 2 + ["result"] * len(
        remat.results
    )


def test_counts_multiply():
    def function(x):
        def inner(c, _):
            return jnp.sin(c), None

        def outer(c, _):
            return lax.scan(inner, jnp.cos(c), None, length=5)[0], None

        return jnp.tan(lax.scan(outer, x, None, length=3)[0])

    program = trace(function, (V,))
    check_invariants(program)
    assert {p: only(program, p).count for p in ("tan", "cos", "sin")} == {
        "tan": 1,
        "cos": 3,
        "sin": 15,
    }
    assert all(op.exact_count for op in program.ops)


def test_counts_below_while_are_assumed():
    def function(x):
        def inner(c):
            return lax.while_loop(lambda c: jnp.cosh(c) < 9.0, jnp.sin, jnp.cos(c))

        outer = lax.while_loop(lambda c: jnp.sinh(c) < 9.0, inner, x)
        return jnp.tan(lax.fori_loop(0, 4, lambda _, c: jnp.exp(c), outer))

    program = trace(function, (S,), while_trips=100)
    check_invariants(program)
    counts = {p: only(program, p) for p in ("sinh", "cos", "cosh", "sin", "exp", "tan")}
    assert {p: (op.count, op.exact_count) for p, op in counts.items()} == {
        "sinh": (100, False),
        "cos": (100, False),
        "cosh": (10_000, False),
        "sin": (10_000, False),
        "exp": (4, True),  # a known number of trips
        "tan": (1, True),
    }


def test_cond_in_scan_counts_as_the_scan():
    def function(x):
        def body(c, _):
            return lax.cond(c.sum() > 0, jnp.sin, jnp.cos, c), None

        return lax.scan(body, x, None, length=6)[0]

    program = trace(function, (V,))
    check_invariants(program)
    assert only(program, "sin").count == only(program, "cos").count == 6
    assert only(program, "sin").parent == only(program, "cond").id
    assert only(program, "cond").parent == only(program, "scan").id


def test_gradient_of_remat_in_scan():
    def loss(w, x):
        body = jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), None))
        return lax.scan(body, x, w)[0].sum()

    shapes = (
        jax.ShapeDtypeStruct((6, 4, 4), jnp.float32),
        jax.ShapeDtypeStruct((2, 4), jnp.float32),
    )
    program = trace(jax.grad(loss), shapes)
    check_invariants(program)
    scans = [op for op in program.ops if op.primitive == "scan"]
    assert [op.params["reverse"] for op in scans] == [False, True]
    (remat,) = (op for op in program.ops if "differentiated" in op.params)
    assert remat.parent == scans[1].id
    assert remat.count == 6


def test_values_of_a_region_are_not_used_outside():
    program = trace(lambda x: lax.scan(lambda c, _: (c * 2.0, c), x, None, length=3), (V,))
    scan = only(program, "scan")
    inside = {r for i in scan.blocks[0].ops for r in program.ops[i].results}
    for value in inside:
        for user, _ in program.consumers[value]:
            assert program.ops[user].parent == scan.id or user in scan.ties


@pytest.mark.parametrize("length", [0, 1])
def test_short_scans(length, emitted):
    def function(x):
        return lax.scan(lambda c, _: (c * 2.0, c), x, None, length=length)

    program = trace(function, (V,))
    check_invariants(program)
    c, ys = emitted(program)(jnp.ones(4))
    assert c[0] == 2.0**length
    assert ys.shape == (length, 4)
