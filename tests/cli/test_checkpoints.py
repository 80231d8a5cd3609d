"""`autoshard train --checkpoint-dir --resume`, and `autoshard ckpt` on what it leaves."""

import json
import shutil

import numpy as np
import pytest

import autoshard.checkpoint as ck
from autoshard.cli import main
from autoshard.errors import ExitCode

MODEL = ["gpt-tiny", "--set", "layers=1", "hidden=32", "--batch", "8", "--seq", "32"]


def train(directory, log, *more):
    arguments = ["--checkpoint-dir", str(directory), "--json-log", str(log), "--log-every", "1"]
    return main(["train", *MODEL, "--steps", "12", *arguments, "--json", *more])


def losses(log):
    reports = [json.loads(line) for line in log.read_text().splitlines()]
    return {r["step"]: r["loss"] for r in reports if r["event"] == "report"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of twelve steps, and the same one, of which only the first six are left."""
    folder = tmp_path_factory.mktemp("train")
    every = ("--checkpoint-every", "3", "--checkpoint-keep", "9")
    mesh = ("--mesh", "data=2,model=4", "--strategy", "zero3+tensor")
    assert train(folder / "run", folder / "whole.jsonl", *every, *mesh) == ExitCode.OK
    assert list(ck.committed_steps(folder / "run")) == [3, 6, 9, 12]
    for step in (9, 12):
        shutil.rmtree(folder / "run" / f"step_{step:08d}")
    return folder


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(("data=2,model=4", "zero3+tensor"), marks=pytest.mark.slow, id="zero3+tensor"),
        pytest.param(("data=8", "zero3"), id="zero3"),
    ],
)
def test_resume(mesh, run, tmp_path, capfd):
    shutil.copytree(run / "run", tmp_path / "run")
    options = ("--mesh", mesh[0], "--strategy", mesh[1], "--resume")
    assert train(tmp_path / "run", tmp_path / "log.jsonl", *options) == ExitCode.OK
    whole, found = losses(run / "whole.jsonl"), losses(tmp_path / "log.jsonl")
    assert list(found) == [7, 8, 9, 10, 11, 12]
    wanted = [whole[step] for step in found]
    if mesh[0] == "data=2,model=4":
        assert list(found.values()) == wanted
    else:
        np.testing.assert_allclose(list(found.values()), wanted, rtol=1e-5)
    assert "resumed after step 6" in capfd.readouterr().err
    newest = ck.latest(tmp_path / "run")
    assert newest is not None and newest.name == "step_00000012"


def test_what_resume_refuses(run, tmp_path, capfd):
    def error(*options):
        code = train(run / "run", tmp_path / "log.jsonl", *options)
        return code, capfd.readouterr().err

    code, text = error()
    assert code == ExitCode.USAGE and "has checkpoints of an earlier run" in text
    code, text = error("--resume", "--seed", "3")
    assert code == ExitCode.USAGE and "was trained with seed=0" in text
    code, text = error("--resume", "--steps", "6")
    assert code == ExitCode.USAGE and "6 steps done already" in text
    code, text = error("--resume", "--set", "hidden=64", "layers=1")
    assert code == ExitCode.MISMATCH and "shape: saved" in text
    assert main(["train", *MODEL, "--resume"]) == ExitCode.USAGE
    nothing = ["--checkpoint-dir", str(tmp_path / "nothing"), "--resume"]
    assert main(["train", *MODEL, *nothing]) == ExitCode.USAGE


def test_looking_at_checkpoints(run, capfd):
    def told(*arguments, code=ExitCode.OK):
        assert main(["ckpt", *map(str, arguments)]) == code
        return capfd.readouterr().out

    directory = run / "run"
    three, six = directory / "step_00000003", directory / "step_00000006"
    rows = json.loads(told("ls", directory, "--json"))["checkpoints"]
    assert [(row["step"], row["state"]) for row in rows] == [(3, "verified"), (6, "verified")]
    assert "data=2,model=4" in told("ls", directory)
    assert "params/" in told("show", six) and "zero3+tensor" in told("show", six)
    assert json.loads(told("show", six, "--json"))["step"] == 6
    assert "the same content" in told("diff", six, six)
    differences = json.loads(told("diff", three, six, "--json", "--count", code=ExitCode.MISMATCH))
    assert {"path": "step", "text": "int32[]: 1 of 1 values, by up to 3"} in (
        differences["differences"]
    )
    assert json.loads(told("verify", three, six, "--json"))["checkpoints"][1]["ok"]
    assert "step_00000003: ok" in told("scrub", directory)
    assert "nothing to remove" in told("prune", directory, "--keep-last", "2", "--dry-run")


def test_mending_and_pruning(run, tmp_path, capfd):
    shutil.copytree(run / "run", tmp_path / "run")
    six = tmp_path / "run" / "step_00000006"
    assert main(["ckpt", "compact", str(six), str(tmp_path / "copy")]) == ExitCode.OK
    victims = [six / "state" / "_METADATA", *(six / "state").glob("params*/c/0/0")]
    victims = [victim for victim in victims if victim.is_file()]
    for victim in victims[:3]:
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 8
        victim.write_bytes(data)
    assert main(["ckpt", "verify", str(six)]) == ExitCode.CORRUPT_DATA
    assert main(["ckpt", "scrub", str(tmp_path / "run")]) == ExitCode.CORRUPT_DATA
    assert main(["ckpt", "repair", str(six)]) == ExitCode.CORRUPT_DATA  # metadata alone
    repair = ["ckpt", "repair", str(six), "--from", str(tmp_path / "copy"), "--json"]
    capfd.readouterr()
    assert main(repair) == ExitCode.OK
    assert json.loads(capfd.readouterr().out)["checkpoints"][0]["ok"]
    assert main(["ckpt", "prune", str(tmp_path / "run"), "--keep-last", "1"]) == ExitCode.OK
    assert list(ck.committed_steps(tmp_path / "run")) == [6]


def test_places_without_checkpoints(tmp_path):
    assert main(["ckpt", "ls", str(tmp_path / "nowhere")]) == ExitCode.USAGE
    assert main(["ckpt", "show", str(tmp_path)]) == ExitCode.INCOMPLETE
    assert main(["ckpt", "verify", str(tmp_path)]) == ExitCode.INCOMPLETE
