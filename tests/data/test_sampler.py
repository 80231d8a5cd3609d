import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.data import BatchSampler, ByteCorpus, split_next_token
from autoshard.errors import DataError


def _corpus(size=1000):
    content = (np.arange(size) % 251).astype(np.uint8)
    return ByteCorpus(name="ramp", files=(), skipped=(), segments=(content,))


def test_a_batch_is_windows_of_the_corpus():
    tokens = BatchSampler(corpus=_corpus(), batch=6, seq=9).tokens(3)
    assert (tokens.shape, tokens.dtype) == ((6, 10), np.int32)
    np.testing.assert_array_equal((tokens - tokens[:, :1]) % 251, np.tile(np.arange(10), (6, 1)))


def test_the_step_and_the_seed_decide_alone():
    sampler = BatchSampler(corpus=_corpus(), batch=6, seq=9, seed=1)
    in_order = [sampler.tokens(step) for step in range(4)]
    again = BatchSampler(corpus=_corpus(), batch=6, seq=9, seed=1)
    np.testing.assert_array_equal(again.tokens(3), in_order[3])
    assert (in_order[2] != in_order[3]).any()
    other = BatchSampler(corpus=_corpus(), batch=6, seq=9, seed=2)
    assert (other.tokens(3) != in_order[3]).any()


def test_the_stream_never_changes():
    """Resumed runs rely on these numbers: a change here breaks them."""
    starts = BatchSampler(corpus=_corpus(200), batch=4, seq=9, seed=7).tokens(5)[:, 0]
    assert starts.tolist() == [140, 17, 106, 169]


@given(
    rows=st.integers(1, 4),
    processes=st.integers(1, 5),
    step=st.integers(0, 10**9),
    seed=st.integers(0, 2**64 - 1),
)
def test_processes_together_draw_the_batch_of_one(rows, processes, step, seed):
    sampler = BatchSampler(corpus=_corpus(), batch=rows * processes, seq=5, seed=seed)
    parts = [
        sampler.tokens(step, process_index=i, process_count=processes) for i in range(processes)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), sampler.tokens(step))


def test_every_window_can_be_drawn_also_the_last():
    sampler = BatchSampler(corpus=_corpus(20), batch=1, seq=17)
    firsts = {int(sampler.tokens(step)[0, 0]) for step in range(60)}
    assert firsts == {0, 1, 2}
    assert BatchSampler(corpus=_corpus(18), batch=1, seq=17).tokens(0)[0, -1] == 17


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch": 0, "seq": 5}, "must both be at least 1"),
        ({"batch": 1, "seq": 0}, "must both be at least 1"),
        ({"batch": 1, "seq": 5, "seed": -1}, r"seed=-1: must lie in \[0, 2\*\*64\)"),
        ({"batch": 1, "seq": 5, "seed": 2**64}, "seed=18446744073709551616: must lie"),
        ({"batch": 1, "seq": 1000}, r"ramp: holds 1000 bytes.*need 1001.*\n.*seq=999"),
    ],
)
def test_impossible_samplers_are_refused(kwargs, message):
    with pytest.raises(DataError, match=message):
        BatchSampler(corpus=_corpus(), **kwargs)


@pytest.mark.parametrize(
    ("step", "index", "count", "message"),
    [
        (-1, 0, 1, "step=-1: must not be negative"),
        (0, 2, 2, r"process_index=2: must lie in \[0, 2\)"),
        (0, 0, 4, "batch=6: is not a multiple of the 4 processes.*\n.*batch=8"),
    ],
)
def test_impossible_requests_are_refused(step, index, count, message):
    sampler = BatchSampler(corpus=_corpus(), batch=6, seq=5)
    with pytest.raises(DataError, match=message):
        sampler.tokens(step, process_index=index, process_count=count)


def test_targets_are_one_token_ahead():
    batch = split_next_token(np.arange(10, dtype=np.int32).reshape(2, 5))
    assert batch["inputs"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert batch["targets"].tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]
