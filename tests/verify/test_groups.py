"""Replica groups: printed forms, and the axes that they span."""

import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from autoshard.errors import HloFormatError, HloMeshError
from autoshard.verify import IRREGULAR, MeshAxes
from autoshard.verify._groups import axes_of_groups, axes_of_pairs, parse_groups, parse_pairs

MESH = MeshAxes(("data", "model"), (2, 4))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("{{0}}", ((0,),)),
        ("{}", ((0, 1, 2, 3),)),
        ("{{}}", ((0, 1, 2, 3),)),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[1,4]<=[4]", ((0, 1, 2, 3),)),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", ((0, 1), (2, 3))),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2] {'b','a'}", ((0, 2, 1, 3),)),
        ("mesh['a'=2,'b'=2] {}", ((0,), (1,), (2,), (3,))),
        ("mesh[a=2,b=2] {b}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2], device_ids=(3,1,0,2) {'b'}", ((3, 1), (0, 2))),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(4)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a','b':(2)2}", ((0, 1, 4, 5), (2, 3, 6, 7))),
    ],
)
def test_forms(text: str, groups: tuple[tuple[int, ...], ...]) -> None:
    assert parse_groups(text, partitions=4) == groups


@pytest.mark.parametrize("text", ["", "all", "{{0,1}", "[2,4]<=", "mesh['a'=2]", "<=[8]"])
def test_unknown_form(text: str) -> None:
    with pytest.raises(HloFormatError, match="replica groups of an unknown form"):
        parse_groups(text, partitions=8)


def test_form_that_contradicts_itself() -> None:
    with pytest.raises(HloFormatError, match="an axis 'z' that is not in"):
        parse_groups("mesh['a'=2] {'z'}", partitions=2)
    with pytest.raises(HloFormatError, match="do not divide an axis of size 8"):
        parse_groups("mesh['a'=8] {'a':(3)2}", partitions=8)


@given(st.data())
def test_iota_is_numpys(data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(dims))))
    size = math.prod(dims)
    members = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    groups = np.arange(size).reshape(dims).transpose(order).reshape(-1, members)
    text = f"[{size // members},{members}]<=[{','.join(map(str, dims))}]"
    text += f"T({','.join(map(str, order))})"
    assert parse_groups(text, size) == tuple(map(tuple, groups.tolist()))


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("[2,4]<=[8]", ("model",)),
        ("[4,2]<=[2,4]T(1,0)", ("data",)),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "model")),
        ("{{7,6,5,4,3,2,1,0}}", ("data", "model")),  # the order within a group does not matter
        ("{{4,5,6,7},{0,1,2,3}}", ("model",)),  # nor that of the groups
        ("{{0},{1},{2},{3},{4},{5},{6},{7}}", ()),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("model:(2)2",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("model:(1)2",)),
        ("{{0,1,4,5},{2,3,6,7}}", ("data", "model:(2)2")),
        ("{{0,3},{1,2},{4,7},{5,6}}", (IRREGULAR,)),
        ("{{0,1,2},{3,4,5},{6,7}}", (IRREGULAR,)),
        ("{{0,1,2,3}}", (IRREGULAR,)),  # the other four take no part
        ("{{0,1,2,3},{4,5},{6,7}}", (IRREGULAR,)),  # axes only in the first group
        ("{{0,5},{1,4},{2,7},{3,6}}", (IRREGULAR,)),
        ("{{1,2},{0,3},{4,5},{6,7}}", (IRREGULAR,)),
    ],
)
def test_axes(groups: str, axes: tuple[str, ...]) -> None:
    assert axes_of_groups(parse_groups(groups, 8), MESH) == axes


def enumerate_groups(ids: np.ndarray, along: dict[int, tuple[int, int]]) -> list[tuple[int, ...]]:
    """Groups by definition: places whose coordinates agree outside the (pre, size) parts."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place in itertools.product(*map(range, ids.shape)):
        key: list[Any] = []
        for axis, coordinate in enumerate(place):
            pre, size = along.get(axis, (1, 1))
            inner = ids.shape[axis] // (pre * size)
            key.append((coordinate // (inner * size), coordinate % inner))
        groups.setdefault(tuple(key), []).append(int(ids[place]))
    return [tuple(group) for group in groups.values()]


@st.composite
def meshes(draw: st.DrawFn) -> MeshAxes:
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=3))
    positions = tuple(draw(st.permutations(range(math.prod(sizes)))))
    return MeshAxes(tuple("abc"[: len(sizes)]), tuple(sizes), positions)


@given(meshes(), st.data())
def test_axes_of_any_mesh(mesh: MeshAxes, data: st.DataObject) -> None:
    along: dict[int, tuple[int, int]] = {}
    expected: list[str] = []
    for axis, size in enumerate(mesh.sizes):
        parts = [
            (pre, part)
            for pre in range(1, size + 1)
            for part in range(2, size + 1)
            if size % (pre * part) == 0
        ]
        if parts and data.draw(st.booleans()):
            pre, part = along[axis] = data.draw(st.sampled_from(parts))
            name = mesh.names[axis]
            expected.append(name if part == size else f"{name}:({pre}){part}")
    ids = np.array(mesh.positions).reshape(mesh.sizes)
    groups = data.draw(st.permutations(enumerate_groups(ids, along)))
    groups = tuple(tuple(data.draw(st.permutations(group))) for group in groups)
    assert axes_of_groups(groups, mesh) == tuple(expected)


@given(st.permutations(range(8)), st.sampled_from([2, 4]))
def test_axes_are_never_guessed(order: list[int], members: int) -> None:
    """What is called a product of axes is one, group for group."""
    groups = tuple(map(tuple, np.array(order).reshape(-1, members).tolist()))
    axes = axes_of_groups(groups, MESH)
    if axes == (IRREGULAR,):
        return
    along: dict[int, tuple[int, int]] = {}
    for axis in axes:
        name, _, part = axis.partition(":")
        index = MESH.names.index(name)
        pre, size = part[1:].split(")") if part else (1, MESH.sizes[index])
        along[index] = (int(pre), int(size))
    ids = np.arange(8).reshape(2, 4)
    assert set(map(frozenset, enumerate_groups(ids, along))) == set(map(frozenset, groups))


@pytest.mark.parametrize(
    ("pairs", "axes"),
    [
        ("{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}", ("model",)),
        ("{{0,1}}", ("model",)),
        ("{{0,4},{4,0}}", ("data",)),
        ("{{0,1},{1,2},{2,3},{3,4}}", ("data", "model")),
        ("{{0,1},{0,4}}", ("data", "model")),
        ("{{3,3},{5,5}}", ()),
        ("{}", ()),
    ],
)
def test_axes_of_a_permute(pairs: str, axes: tuple[str, ...]) -> None:
    assert axes_of_pairs(parse_pairs(pairs), MESH) == axes


def test_permute_on_permuted_positions() -> None:
    mesh = MeshAxes(("data", "model"), (2, 2), positions=(0, 3, 1, 2))
    assert axes_of_pairs(((0, 3),), mesh) == ("model",)
    assert axes_of_pairs(((0, 1),), mesh) == ("data",)


def test_pairs_of_an_unknown_form() -> None:
    with pytest.raises(HloFormatError, match="source-target pairs"):
        parse_pairs("{{0,1,2}}")


def test_device_that_the_mesh_lacks() -> None:
    with pytest.raises(HloMeshError, match="speaks of device 8, but the mesh has 8 devices"):
        axes_of_groups(((0, 8),), MESH)


def test_mesh_axes_of(mesh_2x4, permuted_mesh_2x4) -> None:
    expected = MeshAxes(("data", "model"), (2, 4))
    assert MeshAxes.of(mesh_2x4) == expected
    assert MeshAxes.of(permuted_mesh_2x4) == expected  # positions, not device ids
    assert MeshAxes.of(AbstractMesh((2, 4), ("data", "model"))) == expected
    assert MeshAxes.of({"data": 2, "model": 4}) == expected
    assert MeshAxes.of(expected) is expected
    of_ids = MeshAxes.of(permuted_mesh_2x4, device_order=[d.id for d in jax.devices()])
    assert of_ids.positions == (0, 4, 1, 5, 2, 6, 3, 7)


def test_what_is_no_mesh(mesh_2x4) -> None:
    with pytest.raises(HloMeshError, match=r"a str is no mesh: give a jax\.sharding\.Mesh"):
        MeshAxes.of("data=2")
    with pytest.raises(HloMeshError, match="do not make a mesh"):
        MeshAxes(("a", "a"), (2, 4))
    with pytest.raises(HloMeshError, match="have to be positive"):
        MeshAxes(("a",), (0,))
    with pytest.raises(HloMeshError, match=r"each of 0\.\.1 once"):
        MeshAxes(("a",), (2,), positions=(0, 0))
    with pytest.raises(HloMeshError, match="the program"):
        MeshAxes.of(mesh_2x4, device_order=range(4))
