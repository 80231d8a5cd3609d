import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost_model import mesh_shapes, parse_topology, place, placements
from autoshard.cost_model.errors import PlacementError


def test_the_last_axis_is_innermost():
    links = place(parse_topology("h100:4x8"), {"data": 4, "model": 8})
    assert links["model"].level == "domain"
    assert links["data"].level == "cluster"


def test_an_axis_that_straddles_levels():
    links = place(parse_topology("h100:4x8"), {"data": 8, "model": 4})
    assert [(s.level, s.size) for s in links["data"].segments] == [("domain", 2), ("cluster", 4)]


def test_a_cut_ring_is_open():
    whole = place(parse_topology("v5e:16x16"), {"a": 16, "b": 16})["b"].segments[0]
    part = place(parse_topology("v5e:16x16"), {"a": 64, "b": 4})["b"].segments[0]
    assert whole.bytes_per_s == 2 * part.bytes_per_s


def test_slices_go_on_the_outermost_axis():
    links = place(parse_topology("v5e:16x16*4"), {"replica": 4, "data": 16, "model": 16})
    assert links["replica"].level == "dcn"
    assert links["data"].level == links["model"].level == "ici"


def test_fully_connected_groups_use_their_own_links_only():
    links = [
        place(parse_topology("mi300x:8"), {"a": 8 // n, "b": n})["b"].segments[0].bytes_per_s
        for n in (2, 4, 8)
    ]
    assert links == [64e9, 3 * 64e9, 7 * 64e9]


def test_sizes_that_do_not_multiply():
    with pytest.raises(PlacementError, match="multiply to 16, the topology has 8"):
        place(parse_topology("v5e:2x4"), {"a": 4, "b": 4})


def test_no_factoring():
    with pytest.raises(PlacementError, match="multiply to 9"):
        place(parse_topology("v5e:2x4"), {"a": 3, "b": 3})


@settings(deadline=None, max_examples=40)
@given(
    shape=st.sampled_from(["v5e:4x4", "v5e:8x16", "v5p:4x4x8", "v6e:16x16*2", "tpu7x:4x4x4"]),
    data=st.data(),
)
def test_every_placement_holds_every_axis(shape, data):
    topology = parse_topology(shape)
    sizes = data.draw(st.sampled_from(list(mesh_shapes(topology.devices, 2))))
    mesh = dict(zip("ab", sizes, strict=True))
    try:
        found = list(placements(topology, mesh))
    except PlacementError:
        return
    for placement in found:
        for axis, size in mesh.items():
            assert placement[axis].size == size


def test_mesh_shapes_are_all_factorings():
    assert set(mesh_shapes(8, 2)) == {(1, 8), (2, 4), (4, 2), (8, 1)}
    assert all(math.prod(s) == 64 for s in mesh_shapes(64, 3))
