"""plan --out, explain, diff, train --plan: decisions as files on the command line."""

import json
import os
import subprocess
import sys

import pytest

import autoshard
from autoshard.cli import main
from autoshard.errors import ExitCode

MODEL = ["gpt-tiny", "--batch", "8", "--mesh", "data=2,model=4"]


def plan(path, *args, seq="32"):
    return main(["plan", *MODEL, "--seq", seq, *args, "--out", str(path), "--json"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    for strategy in ("dp", "zero3+tensor"):
        assert plan(folder / f"{strategy}.json", "--strategy", strategy) == ExitCode.OK
    return folder


def test_out_writes_a_plan(files, capsys):
    found = autoshard.load_plan(files / "zero3+tensor.json")
    assert (found.strategy, found.mesh_shape) == ("zero3+tensor", {"data": 2, "model": 4})
    assert main(["plan", *MODEL, "--seq", "32", "--out", str(files / "table.json")]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {files / 'table.json'}"


def test_out_leaves_other_files_alone(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    assert plan(path) == ExitCode.USAGE
    assert path.read_text() == "keep me"
    assert "is no plan" in capsys.readouterr().err
    assert plan(tmp_path / "nowhere" / "plan.json") == ExitCode.USAGE


def test_explain_one_array(files, capsys):
    file = str(files / "zero3+tensor.json")
    assert main(["explain", "wte/embedding", "--plan", file]) == ExitCode.USAGE  # its moments too
    assert "ends several paths" in capsys.readouterr().err
    path = "state/params/wte/embedding"
    assert main(["explain", path, "--plan", file]) == ExitCode.OK
    from_file = capsys.readouterr().out
    assert "dimension 0 over model" in from_file
    args = [*MODEL, "--seq", "32", "--strategy", "zero3+tensor"]
    assert main(["explain", path, *args]) == ExitCode.OK
    assert capsys.readouterr().out == from_file
    assert main(["explain", path, "--plan", file, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["path"] == path


def test_diff(files, capsys):
    one, other = (str(files / f"{name}.json") for name in ("dp", "zero3+tensor"))
    assert main(["diff", one, one]) == ExitCode.OK
    assert capsys.readouterr().out == "the plans are equal\n"
    assert main(["diff", one, other, "--json"]) == ExitCode.CHECK_FAILED
    found = json.loads(capsys.readouterr().out)
    assert found["same_program"] and found["differ"]
    assert found["changed"]["strategy"] == ["dp", "zero3+tensor"]
    rows = {row["path"]: row for row in found["arrays"]}
    row = rows["state/params/wte/embedding"]
    assert row["a"]["spec"] == "P(-, -)"
    assert row["b"]["bytes_per_device"] * 8 == row["a"]["bytes_per_device"]
    assert main(["diff", one, other]) == ExitCode.CHECK_FAILED
    text = capsys.readouterr().out
    assert "strategy: dp -> zero3+tensor" in text
    assert "state/params/wte/embedding" in text


def test_diff_of_different_programs(files, tmp_path, capsys):
    assert plan(tmp_path / "longer.json", "--strategy", "dp", seq="64") == ExitCode.OK
    capsys.readouterr()
    other = str(tmp_path / "longer.json")
    assert main(["diff", str(files / "dp.json"), other]) == ExitCode.CHECK_FAILED
    text = capsys.readouterr().out
    assert "different programs" in text
    assert "int32[8,32] -> int32[8,64]" in text


TRAIN = ["gpt-tiny", "--batch", "8", "--seq", "32", "--steps", "3", "--log-every", "1"]


def losses(log):
    reports = [json.loads(line) for line in log.read_text().splitlines()]
    return [r["loss"] for r in reports if r.get("kind", r.get("event")) == "report" or "step" in r]


def test_training_with_a_plan_file_gives_bitwise_the_same_losses(files, tmp_path, capsys):
    found = []
    for name, args in {
        "planned": ["--mesh", "data=2,model=4", "--strategy", "zero3+tensor"],
        "replayed": ["--plan", str(files / "zero3+tensor.json")],
    }.items():
        log = tmp_path / f"{name}.jsonl"
        assert main(["train", *TRAIN, *args, "--json-log", str(log), "--json"]) == ExitCode.OK
        summary = json.loads(capsys.readouterr().out)
        assert (summary["strategy"], summary["mesh"]) == ("zero3+tensor", {"data": 2, "model": 4})
        found.append(losses(log))
    assert len(found[0]) >= 3
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--seq", "64"], ExitCode.MISMATCH, "int32[8,32] in the plan, int32[8,64] here"),
        (["--set", "hidden=128"], ExitCode.MISMATCH, "in the plan, float32["),
        (["--mesh", "data=4,model=2"], ExitCode.MISMATCH, "mesh: data=2,model=4 in the plan"),
        (["--strategy", "dp"], ExitCode.USAGE, "leave strategy= out"),
        (["--plan", "nowhere.json"], ExitCode.USAGE, "there is no such file"),
    ],
)
def test_a_plan_of_something_else(files, capsys, args, code, message):
    given = ["--plan", str(files / "zero3+tensor.json")] if "--plan" not in args else []
    assert main(["train", *TRAIN, *given, *args]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("Mend it: ") == 1


def test_another_number_of_devices(files):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "autoshard.cli", "train", *TRAIN, "--emulate", "4"),
            *("--plan", str(files / "zero3+tensor.json")),
        ],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == ExitCode.MISMATCH
    assert "with 8 devices in the plan, 4 are visible" in done.stderr


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda text: text[:700], ExitCode.CORRUPT_DATA),
        (lambda text: "", ExitCode.CORRUPT_DATA),
        (lambda text: '{"model": 1}', ExitCode.CORRUPT_DATA),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 7'),
            ExitCode.MISMATCH,
        ),
    ],
    ids=["truncated", "empty", "foreign", "newer"],
)
def test_damaged_files(files, tmp_path, capsys, damage, code):
    path = tmp_path / "plan.json"
    path.write_text(damage((files / "dp.json").read_text()))
    for command in (
        ["train", *TRAIN, "--plan", str(path)],
        ["explain", "step", "--plan", str(path)],
        ["diff", str(files / "dp.json"), str(path)],
    ):
        assert main(command) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("Mend it: ") == 1
        assert "Traceback" not in captured.err
