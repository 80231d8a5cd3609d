"""Conflicts: what wins where hints disagree, each on a function of a few lines.

Shardings are written as one text per array: ``a`` is closed, ``a?`` may grow, ``-`` is closed and
whole, ``?`` is open, ``(a b)`` has two axes, ``@1`` gives a priority.
"""

import re

import jax
import jax.numpy as jnp
import pytest

from autoshard.errors import PinConflictError, SpecError
from autoshard.plan import MeshShape
from autoshard.recipes.propagate import DimHint, Hint, Hints, propagate
from autoshard.rules import with_rules
from autoshard.tracing import trace

MESH = MeshShape(("a", "b", "c"), (2, 2, 2))


def hint(text, replicated=()):
    dims = []
    for part in filter(None, map(str.strip, text.split(","))):
        body, _, priority = part.partition("@")
        axes = tuple(re.findall(r"\w+", body))
        dims.append(DimHint(axes=axes, open=body.endswith("?"), priority=int(priority or 0)))
    return Hint(dims=tuple(dims), replicated=frozenset(replicated))


class Ran:
    """A function propagated from the hints on its arguments and results."""

    def __init__(self, function, *arguments, results=(), groups=(), mesh=MESH, between=None):
        shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape, _ in arguments]
        self.ruled = with_rules(trace(function, shapes))
        self.program = program = self.ruled.program
        self.inputs = [program.argument_value(leaf).id for leaf in program.arguments]
        given = zip(self.inputs, [h for _, h in arguments], strict=True)
        values = {v: h if isinstance(h, Hint) else hint(h) for v, h in given if h}
        for primitive, text in (between or {}).items():
            values[self.made(primitive)] = hint(text)
        ends = zip(program.results, results, strict=False)
        self.found = propagate(
            self.ruled,
            mesh,
            Hints(
                values=values,
                results={leaf.op: hint(text) for leaf, text in ends if text},
                groups=[[self.key(k) for k in group] for group in groups],
            ),
        )
        self.labelling = self.found.labelling()  # legal, or this raises

    def key(self, name):
        kind, index = name
        return self.inputs[index] if kind == "in" else ("result", self.program.results[index].op)

    def op(self, primitive, nth=0):
        return [op for op in self.program.ops if op.primitive == primitive][nth]

    def made(self, primitive, nth=0):
        return self.op(primitive, nth).results[0]

    @property
    def arguments(self):
        return [str(self.found.value(v)) for v in self.inputs]

    @property
    def results(self):
        return [str(self.found.result(leaf.op)) for leaf in self.program.results]

    def value(self, primitive, nth=0):
        return str(self.found.value(self.made(primitive, nth)))

    def reads(self, primitive, nth=0):
        op = self.op(primitive, nth)
        return [str(self.labelling.operand_spec(op.id, i)) for i in range(len(op.operands))]

    def leaves(self, primitive, nth=0):
        return str(self.labelling.result_spec(self.op(primitive, nth).id, 0))


def dot(x, y):
    return x @ y


def test_c1_first_factor_wins_at_equal_sizes():
    ran = Ran(lambda x, y: x + y, ((8, 8), "a, ?"), ((8, 8), "?, a"))
    assert ran.arguments == ["P(a, -)", "P(-, a)"]  # a real conflict: no operand changes
    assert ran.results == ["P(a, -)"]
    assert ran.reads("add") == ["P(a, -)", "P(a, -)"]


def test_c2_the_larger_operand_wins():
    ran = Ran(dot, ((8, 4), "(a b), ?"), ((4, 16), "?, (a c)"))
    assert ran.results == ["P(-, (a,c))"]
    mirrored = Ran(dot, ((16, 4), "(a b), ?"), ((4, 8), "?, (a c)"))
    assert mirrored.results == ["P((a,b), -)"]


def test_c2_keeps_the_part_that_agrees():
    """What is lost is lost from the conflicting axis on: the axes before it stay."""
    ran = Ran(dot, ((8, 4), "(b a), ?"), ((4, 16), "?, (a c)"))
    assert ran.results == ["P(b, (a,c))"]
    same = Ran(lambda x, y: x + y, ((8, 8), "(a b), ?"), ((8, 8), "(a c), ?"))
    assert same.results == ["P(a, -)"]


def test_c3_a_batched_product_is_not_cut_further():
    ran = Ran(
        lambda x, y: jnp.einsum("bik,bkj->bij", x, y),
        ((4, 4, 8), "a, b, -"),
        ((4, 8, 8), "(a b), ?, ?"),
        results=["(a b), -, -"],
    )
    assert ran.arguments == ["P(a, b, -)", "P((a,b), -, -)"]
    assert ran.results == ["P((a,b), -, -)"]


def test_c4_factors_that_never_meet_do_not_conflict():
    """The axis is on the rows of the left and the summed dimension of the right operand."""
    ran = Ran(dot, ((8, 8), "a, ?"), ((8, 8), "a, ?"))
    assert ran.arguments == ["P(a, -)", "P(a, -)"]
    assert ran.results == ["P(a, -)"]
    outer = Ran(lambda x, y, z: (x @ y, y @ z), ((8, 8), "a, ?"), ((8, 8), ""), ((8, 8), "?, a"))
    assert outer.results == ["P(a, -)", "P(-, a)"]
    assert outer.arguments == ["P(a, -)", "P(-, -)", "P(-, a)"]


@pytest.mark.parametrize("dot_first", [True, False])
def test_c5_elementwise_before_dot(dot_first):
    def function(x, y, z):
        if dot_first:
            return x @ y + jnp.tanh(z)
        moved = jnp.tanh(z)
        return x @ y + moved

    ran = Ran(function, ((8, 8), "a, ?"), ((8, 8), ""), ((8, 8), "?, a"))
    assert ran.results == ["P(-, a)"]  # by the order of ops or of sizes the dot would have won


def test_c6_a_parallel_factor_beats_a_sum():
    """The axis could go on the sum or on the rows; on the rows nothing is combined."""
    ran = Ran(dot, ((8, 8), ""), ((8, 8), "a, ?"), results=["a, ?"])
    assert ran.arguments == ["P(a, -)", "P(a, -)"]
    assert ran.labelling.labels[ran.op("dot_general").id] == {"i": ("a",)}
    assert ran.labelling.partial_axes(ran.op("dot_general").id) == ()


def test_c7_what_is_read_once_speaks_first():
    """Either sine could hand its axis on first; ``x``, which is read twice, has to wait."""

    def function(x, z):
        return jnp.sin(x) + z, jnp.tanh(x)

    forward = Ran(function, ((8, 8), "?, a"), ((8, 8), "a, ?"))
    assert forward.value("sin") == "P(a, -)"
    once = Ran(lambda x, z: jnp.sin(x) + z, ((8, 8), "?, a"), ((8, 8), "a, ?"))
    assert once.value("sin") == "P(-, a)"


def test_c7_what_is_read_twice_is_told_last():
    def function(x, z):
        return jnp.sin(x), jnp.tanh(z), jnp.exp(x)

    backward = Ran(
        function,
        ((8, 8), ""),
        ((8, 8), "a, ?"),
        results=["?, a"],
        groups=[[("in", 0), ("out", 1)]],
    )
    assert backward.arguments == ["P(a, -)", "P(a, -)"]
    assert backward.results == ["P(-, a)", "P(a, -)", "P(a, -)"]


def test_c8_priorities():
    first = Ran(lambda x, y: x + y, ((8, 8), "a@1, ?"), ((8, 8), "?, a"))
    assert first.results == ["P(-, a)"]  # without priorities it is P(a, -), as in C1
    assert first.arguments == ["P(a, -)", "P(-, a)"]
    # Not propagated and not overridden: an axis of a later round is kept free in its own array.
    kept = Ran(lambda x, y: x + y, ((8, 8), "a@1, ?"), ((8, 8), "b?, a"))
    assert kept.arguments[0] == "P(a, -)"
    later = Ran(lambda x, y: x + y, ((8, 8), "a@1, ?"), ((8, 8), "?, b"))
    assert later.results == ["P(a, b)"]
    three = Ran(
        lambda x, y, z: x + y + z, ((8, 8), "a@2, ?"), ((8, 8), "b@1, ?"), ((8, 8), "c?, ?")
    )
    assert three.results == ["P(c, -)"]


def test_c9_groups_are_equal():
    ran = Ran(
        lambda x, y: (jnp.sin(x), jnp.tanh(y)),
        ((8, 8), "a?, ?"),
        ((8, 8), ""),
        groups=[[("in", 0), ("in", 1)]],
    )
    assert ran.arguments == ["P(a, -)", "P(a, -)"]
    assert ran.results == ["P(a, -)", "P(a, -)"]
    found_later = Ran(
        lambda x, y: (jnp.sin(x), jnp.tanh(y)),
        ((8, 8), ""),
        ((8, 8), ""),
        results=["?, b"],
        groups=[[("in", 0), ("in", 1)], [("in", 1), ("out", 1)]],
    )
    assert found_later.arguments == ["P(-, b)", "P(-, b)"]
    assert found_later.results == ["P(-, b)", "P(-, b)"]


def test_c9_contradicting_groups():
    with pytest.raises(PinConflictError, match="sharding group"):
        Ran(
            lambda x, y: x + y,
            ((8, 8), "a, -"),
            ((8, 8), "-, a"),
            groups=[[("in", 0), ("in", 1)]],
        )
    with pytest.raises(SpecError, match="shapes"):
        Ran(lambda x, y: (x, y), ((8, 8), ""), ((8, 4), ""), groups=[[("in", 0), ("in", 1)]])


def test_c9_closed_dimensions_never_change():
    ran = Ran(lambda x, y: x + y, ((8, 8), "a?, b"), ((8, 8), "-, ?"), results=["?, -"])
    assert ran.arguments == ["P(a, b)", "P(-, b)"]
    assert ran.results == ["P(a, -)"]


def test_c9_replicated_axes_are_never_used():
    ran = Ran(lambda x, y: x + y, ((8, 8), "(a b), ?"), ((8, 8), hint("?, ?", replicated="b")))
    assert ran.arguments == ["P((a,b), -)", "P(a, -)"]
    assert ran.results == ["P((a,b), -)"]
    with pytest.raises(SpecError, match="replicated"):
        hint("a, ?", replicated="a")


@pytest.mark.parametrize("shape", [(8, 32, 16), (8, 8, 8), (8, 4, 16), (4, 4, 256)])
def test_c10_the_result_is_resharded_not_the_operands(shape):
    m, k, n = shape
    mesh = MeshShape(("x", "y"), (4, 2))
    ran = Ran(dot, ((m, k), "y, x"), ((k, n), "x, -"), results=["x, -"], mesh=mesh)
    assert ran.reads("dot_general") == ["P(y, x)", "P(x, -)"]
    assert ran.leaves("dot_general") == "P(y, -)"
    assert ran.reads("result") == ["P(x, -)"]


def test_operands_that_disagree_move_the_fewest_bytes():
    """With rows and sum on one axis, one operand has to move: the smaller one does."""
    wide = Ran(dot, ((256, 8), "a, ?"), ((8, 8), "a, ?"))
    assert wide.leaves("dot_general") == "P(a, -)"
    assert wide.reads("dot_general") == ["P(a, -)", "P(-, -)"]
    deep = Ran(dot, ((8, 8), "a, -"), ((8, 256), "a, -"), results=["-, a"])
    assert deep.reads("dot_general") == ["P(-, -)", "P(-, a)"]


def test_reshapes_carry_axes_through_merged_dimensions():
    ran = Ran(lambda x: x.reshape(4, 2, 8).transpose(2, 0, 1), ((8, 8), "(a b c), ?"))
    assert ran.results == ["P(-, (a,b), c)"]
    back = Ran(lambda x: x.reshape(8, 8), ((4, 2, 8), ""), results=["(a b c), ?"])
    assert back.arguments == ["P((a,b), c, -)"]
    minor = Ran(lambda x: x.reshape(4, 2, 8), ((8, 8), ""), results=["?, a, ?"])
    assert minor.arguments == ["P(-, -)"]  # no spec says it


def test_uneven_dimensions_stay_whole():
    ran = Ran(lambda x, y: jnp.concatenate([x, y]), ((6, 8), "a, ?"), ((3, 8), "?, ?"))
    assert ran.arguments == ["P(a, -)", "P(-, -)"]
    ran = Ran(lambda x: x[:, :6], ((8, 8), "b, (a c)?"))
    assert ran.results == ["P(b, a)"]


def test_through_loops():
    """A scan's carry has one sharding; its stacked dimension is never cut."""

    def function(x, ws):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), h.sum()), x, ws)

    ran = Ran(function, ((8, 16), "a, ?"), ((4, 16, 16), "?, ?, b"))
    assert ran.results[0] == "P(a, b)"
    assert ran.arguments == ["P(a, b)", "P(-, -, b)"]
    assert ran.reads("dot_general") == ["P(a, -)", "P(-, b)"]  # the carry is gathered


def test_nothing_given_nothing_found():
    ran = Ran(dot, ((8, 8), ""), ((8, 8), ""))
    assert ran.labelling.labels == {} and ran.results == ["P(-, -)"]


def test_reasons_name_what_they_follow():
    ran = Ran(lambda x, w: jnp.tanh(x) @ w, ((8, 8), "a, ?"), ((8, 8), "?, b"))
    reasons = ran.labelling.reasons
    (result,) = ran.program.results
    assert (
        reasons[result.op].text
        == "a: follows x through dot_general; b: follows w through dot_general"
    )
    assert reasons[result.op].follows == ("x", "w")
