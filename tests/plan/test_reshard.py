import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from autoshard.lowering import AutoAxes, device_mesh
from autoshard.plan import MeshShape, Spec, reshard_chain
from autoshard.verify import (
    capture_native_stderr,
    collectives,
    involuntary_rematerializations,
)

MESH = MeshShape(("x", "y"), (4, 2))
SOURCE, TARGET = Spec((("y",), (), ("x",))), Spec(((), ("x", "y"), ()))


def moves(a: Spec, b: Spec) -> int:
    """Axes that stand on another dimension afterwards."""
    home = {axis: d for d, dim in enumerate(a.dims) for axis in dim}
    goal = {axis: d for d, dim in enumerate(b.dims) for axis in dim}
    return sum(home[axis] != goal[axis] for axis in home.keys() & goal.keys())


@st.composite
def reshards(draw):
    """A mesh, a shape, and two specs that cut it evenly."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    mesh = MeshShape(tuple("abcd"[: len(sizes)]), tuple(sizes))
    rank = draw(st.integers(1, 4))

    def spec() -> Spec:
        dims: list[list[str]] = [[] for _ in range(rank)]
        for axis in draw(st.permutations(mesh.names)):
            place = draw(st.integers(-1, rank - 1))
            if place >= 0:
                dims[place].append(axis)
        return Spec(tuple(map(tuple, dims)))

    source, target = spec(), spec()
    shape = tuple(
        math.lcm(mesh.size_of(a), mesh.size_of(b)) * draw(st.sampled_from([1, 2, 12]))
        for a, b in zip(source.dims, target.dims, strict=True)
    )
    return mesh, shape, source, target


@settings(deadline=None)
@given(reshards())
def test_every_station_is_legal_and_the_last_is_the_target(case):
    mesh, shape, source, target = case
    chain = reshard_chain(source, target, shape, mesh)
    assert chain[-1] == target
    for station in chain:
        station.check(shape, mesh, "station")
    assert len(set(chain)) == len(chain)
    for station in chain[:-1]:  # nothing is gathered on the way that was not to be gathered
        assert set(station.axes) == set(source.axes)


@settings(deadline=None)
@given(reshards())
def test_one_axis_moves_per_step_where_every_station_divides(case):
    mesh, shape, source, target = case
    shape = tuple(size * mesh.size for size in shape)
    stations = [source, *reshard_chain(source, target, shape, mesh)]
    assert all(moves(a, b) <= 1 for a, b in itertools.pairwise(stations))


@pytest.mark.parametrize(
    ("source", "target", "chain"),
    [
        ("x,-", "x,-", "x,-"),
        ("-,-", "x,y", "x,y"),
        ("xy,-", "-,-", "-,-"),
        ("x,-", "-,x", "-,x"),
        ("x,y", "-,x", "-,x"),
        ("x,y", "y,x", "xy,- > y,x"),
        ("xy,-", "-,xy", "y,x > -,xy"),
        ("xy,-", "-,yx", "x,y > -,yx"),
    ],
)
def test_chains(source, target, chain):
    def spec(text: str) -> Spec:
        return Spec(tuple(tuple(d.replace("-", "")) for d in text.strip().split(",")))

    found = reshard_chain(spec(source), spec(target), (64, 64), MESH)
    assert found == tuple(map(spec, chain.split(">")))


def test_a_station_that_would_not_be_even_is_left_out():
    swap = Spec((("x",), ("y",))), Spec((("y",), ("x",)))
    mesh = MeshShape(("x", "y"), (2, 2))
    assert len(reshard_chain(*swap, (4, 4), mesh)) == 2
    assert reshard_chain(*swap, (2, 2), mesh) == (swap[1],)


def _compile(chain: tuple[Spec, ...]):
    mesh = device_mesh(MESH)
    backend = AutoAxes(mesh)
    x = jnp.arange(8 * 16 * 24, dtype=jnp.float32).reshape(8, 16, 24)
    jitted = jax.jit(
        lambda x: backend.constrain(x * 2, chain),
        in_shardings=NamedSharding(mesh, SOURCE.partition_spec()),
        out_shardings=NamedSharding(mesh, TARGET.partition_spec()),
    )
    with capture_native_stderr() as captured:
        compiled = jitted.lower(x).compile()
    np.testing.assert_array_equal(compiled(x), x * 2)
    kinds = {c.kind for c in collectives(compiled.as_text() or "", MESH.axes)}
    return involuntary_rematerializations(captured.text), kinds


def test_a_chain_avoids_the_full_rematerialization_of_a_direct_reshard():
    warnings, _ = _compile((TARGET,))
    assert warnings, "XLA can do it at once now: the chain is not needed any more"
    chain = reshard_chain(SOURCE, TARGET, (8, 16, 24), MESH)
    assert len(chain) == 2
    warnings, kinds = _compile(chain)
    assert not warnings
    assert kinds <= {"all-to-all", "collective-permute"}
