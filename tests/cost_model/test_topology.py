import pytest

from autoshard.cost_model import NodeGroup, cluster, default_topology, device, parse_topology, torus
from autoshard.cost_model.errors import InvalidFieldError, TopologySyntaxError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu:8", 8),
        ("v5e:2x4", 8),
        ("v5p:4x4x8", 128),
        ("h100:8", 8),
        ("h100:4x8", 32),
        ("v5e:16x16*4", 1024),
        ("tpu7x:2x2x1", 8),
        ("gb200:18x4", 72),
        ("mi250x:2x8", 16),
    ],
)
def test_grammar(text, devices):
    assert parse_topology(text).devices == devices


@pytest.mark.parametrize(
    ("text", "wraps"),
    [
        ("v5e:2x4", (False, False)),
        ("v5e:8x16", (False, True)),
        ("v6e:16x16", (True, True)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x2x2", (False, False, False)),
        ("v4:4x4x6", (False, False, False)),
        ("v3:32x32", (True, True)),
        ("v3:16x16", (False, False)),
    ],
)
def test_wraparound_by_generation(text, wraps):
    assert parse_topology(text).wraps == wraps


@pytest.mark.parametrize(
    "text", ["h100", "h100:", "h100:4x8x2", "h100:4x8*2", "v5e:0x4", "h100:16"]
)
def test_bad_grammar_teaches(text):
    with pytest.raises(TopologySyntaxError, match="Write DEVICE:SHAPE"):
        parse_topology(text)


def test_unknown_device():
    with pytest.raises(UnknownNameError, match="z100"):
        parse_topology("z100:8")


def test_too_large_for_the_generation():
    with pytest.raises(InvalidFieldError, match="v5e up to 16x16"):
        parse_topology("v5e:32x16")


def test_twist_only_where_it_exists():
    assert torus(device("v5p"), (4, 4, 8), twisted=True).twisted
    with pytest.raises(InvalidFieldError, match="twisted"):
        torus(device("v5p"), (4, 4, 4), twisted=True)


def test_nvl72_spans_hosts():
    levels = parse_topology("gb200:18x4").inner
    assert [(level.name, level.size) for level in levels] == [("domain", 72)]
    # 256 devices use 64 of each of four racks.
    levels = parse_topology("gb200:64x4").inner
    assert [(level.name, level.size) for level in levels] == [("domain", 64), ("cluster", 4)]


def test_frontier_has_three_levels():
    levels = parse_topology("mi250x:128x8").inner
    assert [(level.name, level.size) for level in levels] == [
        ("package", 2),
        ("domain", 4),
        ("cluster", 128),
    ]
    rates = [level.bytes_per_s for level in levels]
    assert rates == sorted(rates, reverse=True)


def test_heterogeneous_cluster():
    fast, slow = NodeGroup("infiniband", 4, 25e9), NodeGroup("ethernet", 4, 3e9)
    mixed = cluster(device("a100"), 8, 8, groups=(fast, slow), cross_bytes_per_s=1e9)
    assert [(level.name, level.size) for level in mixed.inner] == [
        ("domain", 8),
        ("group", 4),
        ("cluster", 2),
    ]
    # Every group runs the same collective: the slower card paces it.
    assert mixed.inner[1].bytes_per_s == 3e9
    assert mixed.inner[2].bytes_per_s == 1e9
    with pytest.raises(InvalidFieldError, match="groups"):
        cluster(device("a100"), 9, 8, groups=(fast, slow))


@pytest.mark.parametrize(
    ("name", "devices", "shape"), [("v4", 192, (4, 4, 12)), ("v5e", 256, (16, 16))]
)
def test_default_slices_are_square_and_of_whole_cubes(name, devices, shape):
    assert default_topology(device(name), devices).torus == shape
