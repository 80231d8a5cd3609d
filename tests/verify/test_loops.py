"""Execution counts: trip counts printed and derived, nesting, branches, what is unknown."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from autoshard.verify import collectives, parse_module
from autoshard.verify._loops import Executions, executions


def loop(
    *,
    compare: str = "compare(%i, %n), direction=LT",
    limit: str = "constant(7)",
    step: str = "add(%i, %one)",
    start: str = "constant(0)",
    first: str = "%start",
) -> str:
    """A module with one loop around one computation, `work`."""
    return f"""\
HloModule m

%work (x: f32[8]) -> f32[8] {{
  ROOT %x = f32[8]{{0}} parameter(0)
}}

%body (s: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {{
  %s = (s32[], f32[8]{{0}}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{{0}} get-tuple-element(%s), index=1
  %other = s32[] get-tuple-element(%s), index=2
  %one = s32[] constant(1)
  %two = s32[] constant(2)
  %next = s32[] {step}
  %y = f32[8]{{0}} call(%x), to_apply=%work
  ROOT %t = (s32[], f32[8]{{0}}, s32[]) tuple(%next, %y, %other)
}}

%condition (s: (s32[], f32[8], s32[])) -> pred[] {{
  %s = (s32[], f32[8]{{0}}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %carried = s32[] get-tuple-element(%s), index=2
  %n = s32[] {limit}
  ROOT %go = pred[] {compare}
}}

ENTRY %main (x: f32[8], d: s32[]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %d = s32[] parameter(1)
  %start = s32[] {start}
  %eleven = s32[] constant(11)
  %t = (s32[], f32[8]{{0}}, s32[]) tuple({first}, %x, %eleven)
  %w = (s32[], f32[8]{{0}}, s32[]) while(%t), condition=%condition, body=%body
  ROOT %r = f32[8]{{0}} get-tuple-element(%w), index=1
}}
"""


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        ({}, 7),
        ({"start": "constant(2)"}, 5),
        ({"start": "constant(9)"}, 0),
        ({"step": "add(%one, %i)"}, 7),
        ({"step": "add(%i, %two)"}, 4),
        ({"step": "subtract(%i, %one)", "start": "constant(9)"}, 0),
        ({"step": "subtract(%i, %one)"}, None),  # runs for ever
        ({"compare": "compare(%i, %n), direction=LE"}, 8),
        ({"compare": "compare(%n, %i), direction=GT"}, 7),
        ({"compare": "compare(%n, %i), direction=GE"}, 8),
        ({"compare": "compare(%i, %n), direction=NE"}, 7),
        ({"compare": "compare(%i, %n), direction=NE", "step": "add(%i, %two)"}, None),
        ({"compare": "compare(%i, %n), direction=NE", "start": "constant(9)"}, None),
        (
            {
                "compare": "compare(%i, %n), direction=NE",
                "start": "constant(13)",
                "step": "subtract(%i, %two)",
            },
            3,
        ),
        (
            {
                "compare": "compare(%i, %n), direction=GT",
                "start": "constant(20)",
                "step": "subtract(%i, %two)",
            },
            7,
        ),
        (
            {
                "compare": "compare(%i, %n), direction=GE",
                "start": "constant(21)",
                "step": "subtract(%i, %two)",
            },
            8,
        ),
        ({"limit": "copy(%carried)"}, 11),  # the limit is in the state, the body keeps it
        ({"first": "%d"}, None),  # the start depends on data
        ({"step": "multiply(%i, %two)"}, None),
        ({"step": "copy(%i)"}, None),
        ({"compare": "compare(%i, %n), direction=EQ"}, None),
        ({"compare": "constant(true)"}, None),
    ],
)
def test_derived_trip_count(change: dict[str, str], trips: int | None) -> None:
    counts = executions(parse_module(loop(**change)))
    assert counts["main"] == Executions(1)
    assert counts["body"].count == counts["work"].count == trips
    assert counts["condition"].count == (None if trips is None else trips + 1)


def test_printed_trip_count_is_believed() -> None:
    known = 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'
    assert executions(parse_module(loop().replace("body=%body", known)))["work"].count == 9
    quoted = known.replace('"known_trip_count":{"n":"9"}', r"\"known_trip_count\":{\"n\":\"9\"}")
    assert executions(parse_module(loop().replace("body=%body", quoted)))["work"].count == 9


def test_counter_in_fusions() -> None:
    text = loop(
        compare="fusion(%n, %i), kind=kLoop, calls=%fused_compare",
        step="fusion(%i), kind=kLoop, calls=%fused_step",
    ).replace(
        "%body (s",
        """\
%fused_compare (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %c = pred[] compare(%b, %a), direction=LT
}

%fused_step (a: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %three = s32[] constant(3)
  ROOT %b = s32[] add(%a, %three)
}

%body (s""",
    )
    assert executions(parse_module(text))["work"].count == 3  # 0, 3, 6


@pytest.mark.parametrize(("kept", "trips"), [("%m", 5 * 6), ("%i", None)])
def test_start_from_the_state_of_an_outer_loop(kept: str, trips: int | None) -> None:
    """The inner counter starts at `state[1]` = 2: known if the outer loop hands that on."""
    text = f"""\
HloModule m

%inner (s: s32[]) -> s32[] {{
  %s = s32[] parameter(0)
  %one = s32[] constant(1)
  ROOT %t = s32[] add(%s, %one)
}}

%inner_condition (s: s32[]) -> pred[] {{
  %s = s32[] parameter(0)
  %n = s32[] constant(8)
  ROOT %l = pred[] compare(%s, %n), direction=LT
}}

%outer (s: (s32[], s32[])) -> (s32[], s32[]) {{
  %s = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %m = s32[] get-tuple-element(%s), index=1
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  %w = s32[] while(%m), condition=%inner_condition, body=%inner
  ROOT %t = (s32[], s32[]) tuple(%j, {kept})
}}

%outer_condition (s: (s32[], s32[])) -> pred[] {{
  %s = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(5)
  ROOT %l = pred[] compare(%i, %n), direction=LT
}}

ENTRY %main () -> s32[] {{
  %zero = s32[] constant(0)
  %two = s32[] constant(2)
  %t = (s32[], s32[]) tuple(%zero, %two)
  %w = (s32[], s32[]) while(%t), condition=%outer_condition, body=%outer
  ROOT %r = s32[] get-tuple-element(%w), index=1
}}
"""
    counts = executions(parse_module(text))
    assert counts["outer"].count == 5
    assert counts["inner"].count == trips


def test_step_in_a_function_with_several_callers() -> None:
    """What the function's parameter is depends on the caller: no count is claimed."""
    text = """\
HloModule m

%last (a: s32[], b: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  %one = s32[] constant(1)
  ROOT %t = s32[] add(%b, %one)
}

%body (s: s32[]) -> s32[] {
  %s = s32[] parameter(0)
  %zero = s32[] constant(0)
  ROOT %t = s32[] call(%s, %zero), to_apply=%last
}

%condition (s: s32[]) -> pred[] {
  %s = s32[] parameter(0)
  %n = s32[] constant(8)
  ROOT %l = pred[] compare(%s, %n), direction=LT
}

ENTRY %main () -> s32[] {
  %zero = s32[] constant(0)
  %x = s32[] call(%zero, %zero), to_apply=%last
  ROOT %w = s32[] while(%zero), condition=%condition, body=%body
}
"""
    assert executions(parse_module(text))["body"].count is None


def test_branches_and_several_callers() -> None:
    text = """\
HloModule m

%twice (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

%yes (x: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %y = f32[] call(%x), to_apply=%twice
}

%no (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

%hidden (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

%unused (x: f32[]) -> f32[] {
  ROOT %x = f32[] parameter(0)
}

ENTRY %main (p: pred[], x: f32[]) -> f32[] {
  %p = pred[] parameter(0)
  %x = f32[] parameter(1)
  %a = f32[] call(%x), to_apply=%twice
  %b = f32[] conditional(%p, %a, %a), true_computation=%yes, false_computation=%no
  ROOT %c = f32[] custom-call(%b), custom_call_target="host", called_computations={%hidden}
}
"""
    counts = executions(parse_module(text))
    assert counts["yes"] == counts["no"] == Executions(1, conditional=True)
    assert counts["twice"] == Executions(2, conditional=True)
    assert counts["hidden"] == Executions(None)
    assert "unused" not in counts


Compile = Callable[..., str]
Struct = Callable[..., jax.ShapeDtypeStruct]


def nested(x: jax.Array) -> jax.Array:
    w = jnp.ones((32, 32))

    def inner(c, _):
        return jnp.tanh(c) @ w, None

    def outer(c, _):
        return jax.lax.scan(inner, c, None, length=3)[0] * 2.0, None

    return jax.lax.scan(outer, x, None, length=5)[0]


def test_nested_scans(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    x = struct(mesh_2x4, (16, 32), "data", "model")
    text = compile_text(nested, x, out=x.sharding)
    (gather,) = collectives(text, mesh_2x4)
    assert (gather.kind, gather.axes, gather.count) == ("all-gather", ("model",), 15)
    assert not gather.conditional


def test_derived_counts_are_the_printed_ones(
    mesh_2x4: Mesh, struct: Struct, compile_text: Compile
) -> None:
    """Without the backend's own counts, as on TPU, the loops themselves say the same."""
    x = struct(mesh_2x4, (16, 32), "data", "model")
    text = compile_text(nested, x, out=x.sharding)
    bare, removed = re.subn(r',"known_trip_count":\{"n":"\d+"\}', "", text)
    assert removed == 2
    assert executions(parse_module(bare)) == executions(parse_module(text))


def test_gradient_of_a_scan(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    """Forward and backward loop, each with its collectives, the backward one counting down."""

    def f(ws, x):
        def loss(ws):
            y = jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]
            return jnp.sum(y * y)

        return jax.grad(loss)(ws)

    ws = struct(mesh_2x4, (6, 32, 32), None, None, "model")
    x = struct(mesh_2x4, (16, 32), "data", None)
    text = compile_text(f, ws, x, out=ws.sharding)
    found = collectives(text, mesh_2x4)
    assert {one.count for one in found if not one.is_scalar} == {6}
    bare = re.sub(r',"known_trip_count":\{"n":"\d+"\}', "", text)
    assert collectives(bare, mesh_2x4) == found


def test_data_dependent_loop(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    w = jnp.ones((32, 32))

    def f(x):
        return jax.lax.while_loop(lambda s: jnp.sum(s) < 10.0, lambda s: s @ w, x)

    found = collectives(compile_text(f, struct(mesh_2x4, (32, 32), "data", "model")), mesh_2x4)
    assert found
    assert {one.count for one in found} == {None}


def test_conditional(mesh_2x4: Mesh, struct: Struct, compile_text: Compile) -> None:
    w = jnp.ones((32, 32))

    def f(p, x):
        return jax.lax.cond(p, lambda s: s @ w, lambda s: s, x) + jnp.sum(x)

    x = struct(mesh_2x4, (32, 32), "data", "model")
    found = collectives(
        compile_text(f, struct(mesh_2x4, (), dtype=jnp.bool_), x, out=x.sharding), mesh_2x4
    )
    in_branch = [one for one in found if one.conditional]
    assert {(one.kind, one.axes, one.count) for one in in_branch} == {("all-gather", ("model",), 1)}
    assert {one.kind for one in found if not one.conditional} == {"all-reduce"}
