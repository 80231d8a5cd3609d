import json
import math
import socket
import subprocess
import sys

import numpy as np
import pytest

from autoshard.cli import main
from autoshard.errors import ExitCode

MODEL = ["train", "gpt-tiny", "--set", "layers=1"]
SMALL = [*MODEL, "--batch", "8", "--seq", "32", "--log-every", "1"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    return str(path)


def test_a_run_shows_its_plan_its_progress_and_a_summary(text, capsys):
    argv = [*SMALL, "--mesh", "data=2,model=4", "--steps", "12", "--lr", "1e-2", "--data", text]
    assert main(argv) == ExitCode.OK
    captured = capsys.readouterr()
    assert "wte/embedding" in captured.out
    assert "12 steps in" in captured.out.splitlines()[-1]
    lines = captured.err.splitlines()
    assert lines[0] == f"data: {text}, 1 files, 0.0 MB"
    assert lines[1].startswith("step 1/12  loss 5.")
    assert lines[-1].startswith("step 12/12  loss ")
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines[1:]]
    assert losses[-1] < losses[0] - 1


def test_json_goes_to_stdout_and_to_a_new_file(text, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    argv = [*SMALL, "--steps", "3", "--data", text, "--json", "--json-log", str(log)]
    assert main(argv) == ExitCode.OK
    summary = json.loads(capsys.readouterr().out)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["report"] * 3 + ["summary"]
    assert [event["step"] for event in events[:3]] == [1, 2, 3]
    assert summary["first_loss"] == events[0]["loss"]
    assert summary["loss"] == events[2]["loss"]
    assert summary["steps"] == 3

    assert main(argv) == ExitCode.USAGE
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert len(log.read_text().splitlines()) == 4


def test_a_run_that_cannot_start_leaves_no_log(text, tmp_path):
    log = tmp_path / "log.jsonl"
    argv = [*SMALL, "--data", text, "--json-log", str(log), "--strategy", "nonsense"]
    assert main(argv) == ExitCode.USAGE
    assert not log.exists()


@pytest.mark.slow
def test_the_seed_decides_the_run(text, capsys):
    def losses(seed):
        assert main([*SMALL, "--steps", "2", "--data", text, "--json", "--seed", seed]) == 0
        summary = json.loads(capsys.readouterr().out)
        return summary["first_loss"], summary["loss"]

    assert losses("1") == losses("1") != losses("2")


def test_a_diverging_run_exits_with_one(text, capsys):
    argv = [*SMALL, "--steps", "40", "--lr", "1e30", "--data", text]
    assert main(argv) == ExitCode.CHECK_FAILED
    assert "training has diverged" in capsys.readouterr().err


@pytest.mark.slow
def test_strategies_train_the_same_run(text, capsys):
    def losses(strategy):
        options = ["--mesh", "data=2,model=4", "--strategy", strategy, "--steps", "4"]
        assert main([*SMALL, *options, "--data", text, "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        return [summary["first_loss"], summary["loss"]]

    np.testing.assert_allclose(losses("zero3+tensor"), losses("dp"), rtol=1e-5)


@pytest.mark.multiprocess
@pytest.mark.slow  # tests/api has a quick one
@pytest.mark.parametrize("strategy", ["zero3", "tensor"])  # the batch cut, the batch replicated
def test_two_processes_train_the_run_of_one(strategy, text, tmp_path):
    options = [*SMALL, "--strategy", strategy, "--mesh", "data=2,model=4", "--steps", "5"]
    options += ["--data", text]
    _run_all([[*options, "--emulate", "8", "--json-log", str(tmp_path / "one")]])
    address = f"127.0.0.1:{_free_port()}"
    # Reached by neither process; they have to agree on that.
    cluster = ["--seconds", "3600", "--emulate", "4"]
    cluster += ["--coordinator", address, "--num-processes", "2"]
    outputs = _run_all(
        [
            [*options, *cluster, "--json", "--process-id", str(i)]
            + (["--json-log", str(tmp_path / "two")] if i == 0 else [])
            for i in range(2)
        ]
    )
    one, two = (_losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 5
    np.testing.assert_allclose(two, one, rtol=1e-5)
    # Only the first process speaks, and nothing else writes to its standard output.
    assert json.loads(outputs[0])["loss"] == two[-1]
    assert outputs[1] == ""


@pytest.mark.slow
def test_the_demonstration_learns_and_equals_one_device(tmp_path):
    for devices, mesh in ((8, "data=2,model=4"), (1, "data=1")):
        options = ["--mesh", mesh, "--emulate", str(devices), "--log-every", "1"]
        _run_all([["train", *options, "--json-log", str(tmp_path / str(devices))]])
    eight, one = (_losses(tmp_path / name) for name in ("8", "1"))
    assert len(eight) == len(one) == 300
    assert abs(eight[0] - math.log(256)) < 0.3
    assert np.mean(eight[-10:]) < 2.7
    np.testing.assert_allclose(eight[:100], one[:100], rtol=1e-4)


def _losses(path):
    events = map(json.loads, path.read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "report"]


def _run_all(argvs):
    """Runs commands at the same time; returns what each wrote to standard output."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "autoshard.cli", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argv in argvs
    ]
    try:
        results = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == ExitCode.OK, err
    return [out for out, _ in results]


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
