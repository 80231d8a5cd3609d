import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshard.cost_model import (
    CollectiveTables,
    TimeTable,
    all_gather,
    all_reduce,
    all_reduce_algorithms,
    all_to_all,
    broadcast,
    collective_time,
    parse_topology,
    permute,
    place,
    reduce_scatter,
    ring,
    together,
)
from autoshard.cost_model.errors import InvalidFieldError

KINDS = ["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute", "broadcast"]


def _links():
    yield ring(8, 300e9, 1e-5)
    yield together([ring(8, 300e9, 1e-5), ring(4, 25e9, 2e-5, level="cluster")])
    for text, mesh in [
        ("v5e:16x16", {"a": 16, "b": 16}),
        ("v5e:2x4", {"a": 2, "b": 4}),
        ("v5e:16x16*2", {"a": 2, "b": 256}),
        ("tpu7x:4x4x4", {"a": 16, "b": 8}),
        ("mi250x:4x8", {"a": 4, "b": 8}),
    ]:
        links = place(parse_topology(text), mesh)
        yield from links.links.values()
        yield together(list(links.links.values()))


LINKS = list(_links())
sizes = st.floats(1.0, 1e11)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS), link=st.sampled_from(LINKS), size=sizes, factor=st.floats(1, 99)
)
def test_monotone_in_bytes(kind, link, size, factor):
    more = collective_time(kind, size * factor, link)
    assert collective_time(kind, size, link) <= more * (1 + 1e-12)


@settings(deadline=None)
@given(link=st.sampled_from(LINKS), size=sizes)
def test_orders_between_collectives(link, size):
    assert all_reduce(size, link) >= reduce_scatter(size, link) * (1 - 1e-12) or (
        # A one-shot or tree all-reduce saves latency, never bandwidth.
        size < 1e6
    )
    assert all_gather(size, link) == reduce_scatter(size, link)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    link=st.sampled_from(LINKS),
    size=sizes,
    share=st.floats(0.05, 1.0),
)
def test_never_cheaper_on_a_slower_link(kind, link, size, share):
    slower = link.scaled(bandwidth=share)
    assert collective_time(kind, size, slower) >= collective_time(kind, size, link) * (1 - 1e-12)
    later = link.scaled(latency=1 / share)
    assert collective_time(kind, size, later) >= collective_time(kind, size, link) * (1 - 1e-12)


def test_closed_forms_on_a_switch():
    link = ring(8, 300e9)
    assert all_gather(1e9, link) == pytest.approx(1e9 / 300e9 * 7 / 8)
    assert all_reduce(1e9, link) == pytest.approx(2e9 / 300e9 * 7 / 8)
    assert all_to_all(1e9, link) == pytest.approx(1e9 / 300e9 * 7 / 64)
    assert permute(1e9, link) == pytest.approx(1e9 / 300e9)
    assert broadcast(1e9, link) == pytest.approx(1e9 / 300e9)


def test_the_slowest_level_paces_a_hierarchy():
    link = together([ring(8, 300e9), ring(4, 25e9, level="cluster")])
    # One ring through all 32 devices enters every node with 31 of the 32 shards.
    assert all_gather(1e9, link) == pytest.approx(max(1e9 / 300e9 * 7 / 8, 1e9 / 200e9 * 31 / 32))


def test_an_open_axis_takes_twice_the_time():
    closed = place(parse_topology("v5p:4x4x4"), {"a": 16, "b": 4})["b"]
    opened = place(parse_topology("v5p:1x1x4"), {"b": 4})["b"]
    assert all_gather(1e9, opened) == pytest.approx(2 * all_gather(1e9, closed))


def test_two_torus_axes_share_the_work():
    links = place(parse_topology("v5e:16x16"), {"a": 16, "b": 16})
    both = together([links["a"], links["b"]])
    assert all_gather(1e9, both) == pytest.approx(
        all_gather(1e9, links["a"]) / 2 * (255 / 256) / (15 / 16)
    )


def test_small_messages_take_another_algorithm():
    link = ring(8, 300e9, 1e-5)
    small, large = all_reduce_algorithms(1e4, link), all_reduce_algorithms(1e9, link)
    assert min(small, key=small.__getitem__) == "one-shot"
    assert min(large, key=large.__getitem__) == "ring"
    assert "one-shot" not in large


def test_a_twisted_torus_is_faster_only_in_all_to_all():
    from autoshard.cost_model import device, torus

    mesh = {"all": 128}
    plain = place(torus(device("v5p"), (4, 4, 8)), mesh)["all"].scaled(latency=0)
    twisted = torus(device("v5p"), (4, 4, 8), twisted=True)
    twisted = place(twisted, mesh)["all"].scaled(latency=0)
    assert all_to_all(1e9, twisted) == pytest.approx(all_to_all(1e9, plain) / 1.63)
    assert all_gather(1e9, twisted) == all_gather(1e9, plain)


def test_measured_tables_override():
    link = ring(8, 300e9)
    table = TimeTable.from_samples([(1e6, 1e-3), (1e8, 2e-2)])
    tables = CollectiveTables({("all-gather", "domain", 8): table})
    assert collective_time("all-gather", 1e7, link, tables) == pytest.approx((1e-3 * 2e-2) ** 0.5)
    assert collective_time("all-reduce", 1e7, link, tables) == all_reduce(1e7, link)


def test_tables_mend_noise():
    noisy = [(1e3, 5e-5), (1e4, 4e-5), (1e5, 1e-4), (1e5, 3e-4), (1e6, 1e-4)]
    table = TimeTable.from_samples(noisy)
    times = table.times_s
    assert list(times) == sorted(times)
    rates = [size / seconds for size, seconds in zip(table.sizes, times, strict=True)]
    assert rates == sorted(rates)
    assert table(1e2) == times[0]
    assert table(1e8) == pytest.approx(times[-1] * 100)


@pytest.mark.parametrize(("kind", "size"), [("all-scatter", 1.0), ("all-gather", -1.0)])
def test_bad_input(kind, size):
    with pytest.raises(InvalidFieldError):
        collective_time(kind, size, ring(8, 1e9))
