"""Every byte below a checkpoint is checked, and damage is told by leaf, tile and file."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_trees import bits, random_array

import autoshard.checkpoint as ck
from autoshard.errors import CorruptCheckpointError, ExitCode, IncompleteCheckpointError

FLIPS = 40
ALL_FLIPS = 750


@pytest.fixture
def saved(everything, tmp_path, monkeypatch):
    monkeypatch.setattr("autoshard.checkpoint._tiles.TILE_BYTES", 1 << 14)
    monkeypatch.setattr("autoshard.checkpoint._tiles.FILE_BYTES", 1 << 17)
    large = {"w": random_array((300, 280), np.float32), "x": random_array((3, 90, 70), np.int8)}
    ck.save(tmp_path / "c", {**everything, "large": large})
    return tmp_path / "c"


def all_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)


def damage(path: Path, rng: random.Random, kind: str) -> str:
    """Change one file; return what has to be told."""
    files = all_files(path)
    sizes = [p.stat().st_size for p in files]
    # Half of the damage where the bytes are, half anywhere.
    file = rng.choices(files, sizes)[0] if rng.random() < 0.5 else rng.choice(files)
    data = bytearray(file.read_bytes())
    if kind == "flip":
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    else:
        start = rng.randrange(len(data)) // 4096 * 4096
        page = data[start : start + 4096]
        data[start : start + 4096] = bytes(len(page)) if any(page) else b"\1" * len(page)
    file.write_bytes(data)
    return file.relative_to(path).as_posix()


def check_damage(path: Path, count: int, kind: str) -> None:
    rng = random.Random(kind)
    leaves = {f"{leaf.directory}/c": leaf.path for leaf in ck.metadata(path).leaves}
    for _ in range(count):
        before = {p: p.read_bytes() for p in all_files(path)}
        name = damage(path, rng, kind)
        report = ck.verify(path)
        assert not report.ok, name
        assert any(name in finding for finding in report.findings), (name, report.findings)
        leaf = next((v for k, v in leaves.items() if name.startswith(k)), None)
        if leaf is not None and ck.metadata(path).by_path()[leaf].has_files:
            assert all(f"leaf {leaf}, " in finding for finding in report.findings)
            assert all("tile" in finding for finding in report.findings)
        (path / name).write_bytes(before[path / name])
    assert ck.verify(path).ok


@pytest.mark.parametrize("kind", ["flip", "page"])
def test_damage_is_found(kind, saved):
    check_damage(saved, FLIPS, kind)


@pytest.mark.slow
def test_much_damage_is_found(saved):
    check_damage(saved, ALL_FLIPS, "flip")
    check_damage(saved, 100, "page")


def test_damage_is_found_by_loading(saved):
    files = sorted((saved / "state" / "large.w" / "c").rglob("*"))
    file = next(p for p in files if p.is_file())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        CorruptCheckpointError, match=r"leaf large/w, tile \[.*file state/large"
    ) as e:
        ck.load(saved)
    assert e.value.exit_code is ExitCode.CORRUPT_DATA
    found = ck.load(saved, {"large": {"x": np.zeros((3, 90, 70), np.int8)}}, partial=True)
    assert bits(found["large"]["x"]) == bits(random_array((3, 90, 70), np.int8))


def test_a_tile_in_the_wrong_place(saved):
    """Its own checksum holds; the committed one does not."""
    leaf = ck.metadata(saved).by_path()["large/w"]
    layout = leaf.format
    file = saved / leaf.directory / layout.file_name(layout.files.place(0))
    data = bytearray(file.read_bytes())
    size = layout.stored_bytes
    data[:size], data[size : 2 * size] = data[size : 2 * size], data[:size]
    file.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="not the tile that was committed"):
        ck.load(saved)
    assert not ck.verify(saved).ok


@pytest.mark.parametrize("size", [0, 1, -1, 100])
def test_truncated_and_grown_files(size, saved):
    for file in random.Random(size).sample(all_files(saved), 15):
        before = file.read_bytes()
        after = before[:size] if size <= 0 else before + b"x" * size
        file.write_bytes(after)
        name = file.relative_to(saved).as_posix()
        try:
            assert any(name in text for text in ck.verify(saved).findings), name
        except IncompleteCheckpointError:
            assert name == "autoshard/COMMIT"
        file.write_bytes(before)


def test_names_that_do_not_belong(saved):
    (saved / "state" / "stray").write_text("")
    (saved / "state" / "folder").mkdir()
    (saved / "link").symlink_to(saved / "state")
    findings = "\n".join(ck.verify(saved).findings)
    for name in ("file state/stray: does not belong", "directory state/folder", "file link: is a"):
        assert name in findings


def test_missing_files(saved):
    for file in random.Random(0).sample(all_files(saved), 15):
        name = file.relative_to(saved).as_posix()
        before = file.read_bytes()
        file.unlink()
        if name == "autoshard/COMMIT":
            with pytest.raises(IncompleteCheckpointError):
                ck.verify(saved)
        else:
            assert any(f"{name}: is missing" in text for text in ck.verify(saved).findings), name
        file.write_bytes(before)


def test_what_cannot_be_read(saved, monkeypatch):
    """A bad sector: the read itself fails."""

    def fails(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(CorruptCheckpointError, match="Input/output error"):
        ck.load(saved)


def test_report(saved, tmp_path):
    seen: list[int] = []
    report = ck.verify(saved, progress=seen.append)
    assert report.ok and report.files == sum(p.is_file() for p in saved.rglob("*"))
    assert sum(seen) == report.nbytes
    shutil.move(saved, tmp_path / "elsewhere")  # a checkpoint may be moved
    ck.verify(tmp_path / "elsewhere").check()
