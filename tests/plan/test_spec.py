import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from autoshard.errors import SpecError
from autoshard.plan import MeshShape, Spec

MESH = MeshShape(("x", "y", "z"), (2, 4, 2))


@st.composite
def specs(draw):
    """Any spec on the axes of MESH."""
    n = draw(st.integers(0, 4))
    dims = [[] for _ in range(n)]
    for axis in draw(st.permutations(MESH.names)):
        place = draw(st.integers(-1, n - 1))
        if place >= 0:
            dims[place].append(axis)
    return Spec(tuple(map(tuple, dims)))


@settings(deadline=None)
@given(specs())
def test_a_partition_spec_says_the_same(spec):
    said = spec.partition_spec()
    assert Spec.from_partition_spec(said, spec.rank) == spec
    assert not said or said[-1] is not None


@settings(deadline=None)
@given(specs(), st.data())
def test_shards_are_those_of_jax(spec, data):
    shape = tuple(data.draw(st.integers(1, 3)) * MESH.size_of(axes) for axes in spec.dims)
    mesh = AbstractMesh(MESH.sizes, MESH.names)
    sharding = NamedSharding(mesh, spec.partition_spec())
    assert spec.shard_shape(shape, MESH) == sharding.shard_shape(shape)
    assert spec.divides(shape, MESH)
    spec.check(shape, MESH, "x")
    local = math.prod(spec.shard_shape(shape, MESH))
    assert local * spec.shards(MESH) == math.prod(shape)


@settings(deadline=None)
@given(specs(), st.sets(st.sampled_from(MESH.names)))
def test_keep_and_without_part_a_spec(spec, axes):
    kept, rest = spec.keep(axes), spec.without(axes)
    assert set(kept.axes) == set(spec.axes) & axes
    assert set(rest.axes) == set(spec.axes) - axes
    assert kept.rank == rest.rank == spec.rank


@pytest.mark.parametrize(
    ("said", "rank", "text"),
    [
        (PartitionSpec(), 0, "P()"),
        (PartitionSpec(), 2, "P(-, -)"),
        (PartitionSpec("x"), 2, "P(x, -)"),
        (PartitionSpec(None, ("x", "y")), 3, "P(-, (x,y), -)"),
        (PartitionSpec(("x",), None), 2, "P(x, -)"),
        (PartitionSpec((), "y"), 2, "P(-, y)"),
    ],
)
def test_one_form_for_one_meaning(said, rank, text):
    assert str(Spec.from_partition_spec(said, rank)) == text


def test_replicated():
    assert Spec.replicated(3).is_replicated
    assert Spec.replicated(3).rank == 3
    assert not Spec((("x",),)).is_replicated


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Spec((("x",), ("x",))), "repeats one"),
        (lambda: Spec((("x", "x"),)), "repeats one"),
        (lambda: Spec.from_partition_spec(PartitionSpec("x", "y"), 1), "2 entries"),
        (
            lambda: Spec.from_partition_spec(PartitionSpec(PartitionSpec.UNCONSTRAINED), 1),
            "UNCONSTRAINED",
        ),
        (lambda: Spec((("x",),)).check((4, 4), MESH, "w"), "w: P(x) has rank 1"),
        (lambda: Spec((("q",),)).check((4,), MESH, "w"), "the mesh has x, y, z"),
        (lambda: Spec((("x", "y"),)).check((12,), MESH, "w"), "12 is not divisible by x×y = 8"),
    ],
)
def test_what_is_no_spec(make, problem):
    with pytest.raises(SpecError) as caught:
        make()
    assert problem in str(caught.value)
