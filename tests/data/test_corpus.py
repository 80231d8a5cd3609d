import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoshard.data import ByteCorpus
from autoshard.errors import DataError, ExitCode


def _write(folder, contents):
    paths = [folder / f"{i}.txt" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_files_lie_end_to_end(tmp_path):
    corpus = ByteCorpus.from_paths(_write(tmp_path, [b"one,", b"", b"two,", b"three"]))
    assert len(corpus) == 13
    assert bytes(corpus.read(0, 13)) == b"one,two,three"
    assert len(corpus.files) == 4


def test_large_files_are_mapped_and_read_the_same(tmp_path, monkeypatch):
    contents = [b"ab", b"c" * 40, b"de", b"f" * 40, b"g"]
    whole = b"".join(contents)
    monkeypatch.setattr("autoshard.data._corpus._MAPPED_FROM_BYTES", 40)
    corpus = ByteCorpus.from_paths(_write(tmp_path, contents))
    assert [isinstance(s, np.memmap) for s in corpus.segments] == [False, True, False, True, False]
    for start in range(len(whole)):
        length = len(whole) - start
        assert bytes(corpus.read(start, length)) == whole[start:]


@given(contents=st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=6), data=st.data())
def test_any_window_is_that_of_the_joined_bytes(contents, data):
    whole = b"".join(contents)
    segments = tuple(np.frombuffer(content, np.uint8) for content in contents)
    corpus = ByteCorpus(name="drawn", files=(), skipped=(), segments=segments)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    assert bytes(corpus.read(start, length)) == whole[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 5), (4, 1), (2, -1)])
def test_windows_outside_are_refused(start, length):
    corpus = ByteCorpus(
        name="c", files=(), skipped=(), segments=(np.frombuffer(b"abcd", np.uint8),)
    )
    with pytest.raises(IndexError, match="of a corpus of 4"):
        corpus.read(start, length)


def test_empty_data_says_what_was_left_out(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"holds no text\n.*binary: binary") as info:
        ByteCorpus.from_paths([tmp_path])
    assert info.value.exit_code is ExitCode.USAGE
    with pytest.raises(DataError, match="the list of paths: holds no text"):
        ByteCorpus.from_paths([])


def test_the_standard_library_is_capped_and_says_what_it_left_out():
    whole = ByteCorpus.standard_library()
    assert len(whole) > 4_000_000
    assert not whole.skipped
    part = ByteCorpus.standard_library(max_bytes=1_000_000)
    assert len(part) <= 1_000_000
    assert len(part.files) + len(part.skipped) == len(whole.files)
    np.testing.assert_array_equal(part.read(0, len(part)), whole.read(0, len(part)))
    assert part.skipped[0].reason == "beyond max_bytes=1000000"


def test_files_that_vanish_are_skipped(tmp_path):
    kept, gone = _write(tmp_path, [b"kept", b"gone"])
    gone.unlink()
    gone.mkdir()  # exists, but cannot be read as a file
    from autoshard.data._corpus import _open

    corpus = _open("c", [kept, gone], [])
    assert corpus.files == (kept,)
    assert corpus.skipped[0].path == gone
