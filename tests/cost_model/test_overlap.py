import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.cost_model import (
    bucketed,
    exposed,
    local_updates,
    overlapped,
    overlapped_with_slowdown,
    prefetched,
)
from autoshard.cost_model.errors import InvalidFieldError

times = st.floats(0, 100)
shares = st.floats(0, 1)


@given(compute=times, comm=times, share=shares)
def test_between_perfect_overlap_and_none(compute, comm, share):
    both = overlapped(compute, comm, share)
    assert max(compute, comm) <= both <= compute + comm + 1e-9
    assert 0 <= exposed(compute, comm, share) <= comm + 1e-9


def test_the_overlapped_stretch_runs_slower():
    assert overlapped_with_slowdown(10, 4, 0.0, "domain") == pytest.approx(10 + 4 * 0.15 / 0.85)
    assert overlapped_with_slowdown(10, 4, 0.0, "ici") == 10


def test_buckets_wait_for_gradients_and_for_each_other():
    assert bucketed([1, 1, 1], [0.1, 0.1, 0.1]) == pytest.approx(3.1)
    assert bucketed([1, 1, 1], [5, 5, 5]) == 16
    with pytest.raises(InvalidFieldError, match="3 buckets"):
        bucketed([1, 1, 1], [1])


def test_prefetch_shows_the_first_gather_and_the_last_scatter():
    assert prefetched(4, 10, 4) == 44
    assert prefetched(4, 10, 4, depth=0) == 56
    assert prefetched(4, 10, 4, scatter_s=3) == 47
    # A slow link paces everything.
    assert prefetched(4, 1, 10) == pytest.approx(41)


@given(layers=st.integers(1, 12), compute=times, gather=times, depth=st.integers(1, 4))
def test_deeper_prefetch_never_hurts(layers, compute, gather, depth):
    deeper = prefetched(layers, compute, gather, depth=depth + 1)
    assert deeper <= prefetched(layers, compute, gather, depth=depth) + 1e-9
    assert deeper >= max(layers * compute + gather, layers * gather + compute) - 1e-6


def test_local_updates():
    assert local_updates(1.0, 2.0, 1) == 3.0
    assert local_updates(1.0, 2.0, 100) == pytest.approx(1.02)
    assert local_updates(1.0, 2.0, 100, overlap=1.0) == 1.0
    with pytest.raises(InvalidFieldError, match="every=0"):
        local_updates(1.0, 2.0, 0)
