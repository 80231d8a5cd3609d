import pytest

from autoshard.data import standard_library, text_files
from autoshard.errors import DataError


def test_directories_are_walked_in_order_without_hidden_and_binary_files(tmp_path):
    for name, content in {
        "b/z.txt": b"z",
        "b/a.txt": b"a",
        "a.md": b"m",
        ".git/config": b"no",
        "a/.hidden": b"no",
        "a/image.png": b"\x89PNG\0",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files, skipped = text_files([tmp_path])
    assert [str(file.relative_to(tmp_path)) for file in files] == ["a.md", "b/a.txt", "b/z.txt"]
    assert [(file.path.name, file.reason) for file in skipped] == [("image.png", "binary")]


def test_the_order_of_paths_is_kept_and_named_files_are_taken_as_they_are(tmp_path):
    first, second = tmp_path / "z.bin", tmp_path / "a.txt"
    first.write_bytes(b"\0\1")
    second.write_bytes(b"text")
    assert text_files([first, second]) == ([first, second], [])


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or directory"):
        text_files([tmp_path / "nowhere"])


def test_the_standard_library_is_source_without_tests_and_packages():
    files = standard_library()
    assert files == standard_library()
    names = {file.name for file in files}
    assert {"argparse.py", "typing.py"} <= names
    assert all(file.suffix == ".py" for file in files)
    parts = {part for file in files for part in file.parts}
    assert not parts & {"site-packages", "dist-packages", "tests", "idle_test"}
    assert len(files) > 300


def test_a_library_without_sources_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"holds no Python sources.*\n.*--data PATH") as info:
        standard_library()
    assert info.value.subject == tmp_path


def test_unreadable_files_below_a_directory_are_reported(tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_text("secret")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    files, skipped = text_files([tmp_path])
    assert files == []
    assert skipped[0].reason == "Permission denied"
