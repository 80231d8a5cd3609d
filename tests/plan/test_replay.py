"""A plan finds its program again by structure, and says where another one differs."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

import autoshard
from autoshard.errors import ExitCode, PlanMismatchError
from autoshard.plan import MeshShape, replay
from autoshard.recipes import plan_by_recipe
from autoshard.tracing import Program

MESH = MeshShape(("data", "model"), (2, 4))


def network(names, act=jax.nn.relu, twice=False):
    """A step of two layers whose parameters are called as one likes."""
    up, bias, down = names

    def step(params, momentum, batch):
        def loss(p):
            hidden = act(batch["x"] @ p[up] + p[bias][None])
            hidden = act(hidden) if twice else hidden
            return jnp.mean((hidden @ p[down] - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        return jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum, value

    return step


@pytest.fixture
def program(ruled):
    def traced(names=("up", "bias", "down"), width=64, batch=32, extra=(), **options):
        params = dict(zip(names, [(16, width), (width,), (width, 16)], strict=True))
        params |= {name: (8, 8) for name in extra}
        data = {"x": (batch, 16), "y": (batch, 16)}
        return ruled(network(names, **options), params, params, data).program

    return traced


@pytest.fixture
def plan(program, tmp_path):
    plan_by_recipe(program(), MESH, "zero3+tensor").save(tmp_path / "plan.json")
    return autoshard.load_plan(tmp_path / "plan.json")


def test_renamed_parameters_keep_their_plan(plan, program):
    """`up` comes first in the tree once it is called `a`; everything moves, and nothing changes."""
    renamed = program(("a", "offset", "z"))
    found = replay(plan, renamed, MESH)
    planned = plan_by_recipe(renamed, MESH, "zero3+tensor")
    assert found == planned
    assert [leaf.path for leaf in found.arguments[:3]] == ["params/a", "params/offset", "params/z"]
    (follower,) = (x for x in found.arguments if x.path == "momentum/z")
    assert follower.follows == ("params/z",)
    assert "follows params/z through mul" in follower.reason


def test_swapped_names_follow_the_use(plan, program):
    found = replay(plan, program(("down", "bias", "up")), MESH)
    assert found.leaf("params/down").spec == plan.leaf("params/up").spec
    assert found.leaf("params/up").spec == plan.leaf("params/down").spec


def test_a_plan_of_this_process_is_replayed_as_well(program):
    plan = plan_by_recipe(program(), MESH, "zero3+tensor")
    other = program(("a", "b", "c"))
    assert replay(plan, other, MESH) == plan_by_recipe(other, MESH, "zero3+tensor")
    assert isinstance(plan.origin, Program)
    assert replay(plan, plan.origin, MESH) is plan


def test_interchangeable_arrays_keep_theirs_by_name(ruled):
    """Two arrays that nothing tells apart, one of which is cut."""
    decay = lambda s: {name: 0.9 * x for name, x in s.items()}
    make = lambda *names: ruled(decay, {name: (8, 8) for name in names}).program
    program = make("p", "q")
    plan = plan_by_recipe(program, MeshShape(("data",), (8,)), "replicate")
    (spec,) = {leaf.spec for leaf in plan.arguments}
    cut = type(spec)((("data",), ()))

    def one_cut(leaves):
        return tuple(dataclasses.replace(x, spec=cut) if "q" in x.path else x for x in leaves)

    plan = dataclasses.replace(
        plan, arguments=one_cut(plan.arguments), results=one_cut(plan.results)
    )
    for names in (("q", "r"), ("a", "q")):
        found = replay(plan, make(*names), plan.mesh)
        assert {leaf.path[-1]: leaf.spec for leaf in found.arguments}["q"] == cut


OTHERS = {
    "a wider layer": {"width": 128},
    "a smaller batch": {"batch": 16},
    "another activation": {"act": jnp.tanh},
    "an op more": {"twice": True},
    "a parameter more": {"extra": ("unused",)},
    "another place of a parameter": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_program_is_refused(name, plan, program, ruled, golden):
    options = OTHERS[name]
    if options is None:

        def step(params, momentum, batch):  # the same ops, the bias joins one layer later
            def loss(p):
                hidden = jax.nn.relu(batch["x"] @ p["up"]) + p["bias"][None]
                return jnp.mean((hidden @ p["down"] - batch["y"]) ** 2)

            value, grads = jax.value_and_grad(loss)(params)
            momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
            return jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum, value

        params = {"up": (16, 64), "bias": (64,), "down": (64, 16)}
        other = ruled(step, params, params, {"x": (32, 16), "y": (32, 16)}).program
    else:
        other = program(**options)
    with pytest.raises(PlanMismatchError) as caught:
        replay(plan, other, MESH)
    assert caught.value.exit_code == ExitCode.MISMATCH
    text = str(caught.value)
    golden(f"errors/plan_of_{name.replace(' ', '_')}", re.sub(r"\S*/(\S+\.py):\d+", r"\1:N", text))


@pytest.mark.parametrize(
    "mesh",
    [MeshShape(("data", "model"), (4, 2)), MeshShape(("data",), (8,)), MeshShape(("a",), (4,))],
)
def test_another_mesh_is_refused(plan, program, mesh):
    with pytest.raises(PlanMismatchError, match=rf"mesh: data=2,model=4 in the plan, {mesh} here"):
        replay(plan, program(), mesh)


def test_another_jax_is_named(plan, program):
    old = dataclasses.replace(plan, versions={"jax": "0.9.0"})
    assert replay(old, program(), MESH)  # the same ops: no objection
    with pytest.raises(PlanMismatchError, match=r"the plan was made with jax 0\.9\.0"):
        replay(old, program(width=128), MESH)
