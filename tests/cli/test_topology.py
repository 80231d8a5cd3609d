"""plan --topology, --chip, --memory: devices that need not be there."""

import importlib.util
import json
import re

import pytest

from autoshard.cli import main
from autoshard.cli._budget import parse_bytes
from autoshard.errors import ExitCode, UsageError
from autoshard.lowering.ahead import _compile as ahead
from autoshard.lowering.ahead import _process as process

PLAN = ["plan", "gpt-tiny", "--batch", "16", "--seq", "32", "--strategy", "zero3"]


def test_a_topology_is_planned_compiled_and_judged(capsys):
    """On more devices than this process has."""
    args = [*PLAN, "--topology", "cpu:16"]
    assert main([*args, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["mesh"] == {"data": 16}
    compiled = found["compiled"]
    held = compiled["argument_size_in_bytes"] + compiled["output_size_in_bytes"]
    peak = held + compiled["temp_size_in_bytes"] - compiled["alias_size_in_bytes"]
    assert compiled["peak_bytes"] == peak
    assert found["fits"] is True
    # The step counts whole elements: nothing else may differ from what the plan says.
    assert compiled["argument_size_in_bytes"] == pytest.approx(found["bytes_per_device"], rel=0.02)


def test_the_table_ends_with_the_compilers_word(capsys):
    assert main([*PLAN, "--topology", "cpu:8"]) == ExitCode.OK
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"compiled for cpu:8 \(cpu\) in .* s: peak .* per device of .*: fits", last)


def test_what_does_not_fit_exits_with_one(capsys):
    assert main([*PLAN, "--topology", "cpu:8", "--memory", "100kB"]) == ExitCode.CHECK_FAILED
    assert capsys.readouterr().out.splitlines()[-1].endswith(": does not fit")


def test_without_the_compiler(capsys, monkeypatch):
    """No libtpu is needed for a plan alone."""
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    args = [*PLAN, "--topology", "v5p:4x4x8", "--batch", "128", "--no-compile", "--json"]
    assert main(args) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["mesh"], found["compiled"]) == ({"data": 128}, None)
    assert found["device_memory_bytes"] > 90e9


@pytest.mark.parametrize(("chip", "code"), [("v2", ExitCode.CHECK_FAILED), ("b200", ExitCode.OK)])
def test_a_chip_to_judge_against(chip, code, capsys):
    """8 devices of this machine would not hold the model either; the chip is what counts."""
    args = ["plan", "llama-3-8b", "--batch", "8", "--seq", "128", "--strategy", "zero3"]
    layers = ["--set", "layers=32", "--mesh", "data=8"]
    assert main([*args, *layers, "--chip", chip]) == code
    assert f"({chip})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topology", "v9:2x4"], "Unknown hardware 'v9'"),
        (["--topology", "v5e"], "does not read as a device and a shape"),
        (["--topology", "v5e:64x64"], "up to 16x16"),
        (["--topology", "h100:8*2"], "only TPU slices"),
        (["--topology", "mi300x:8"], "no compiler here knows this chip"),
        (["--chip", "v9"], "Unknown hardware 'v9'"),
        (["--memory", "much"], "--memory much is no size"),
        (["--memory", "0GB"], "no size above zero"),
        (["--timeout", "0"], "--timeout 0.0 is not above zero"),
        (["--topology", "cpu:8", "--mesh", "data=4"], "it needs 4 devices, 8"),
    ],
)
def test_mistakes(args, message, capsys, monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: object())
    assert main([*PLAN, *args]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("Mend it: ") == 1
    assert captured.out == ""


def test_a_compiler_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    assert main([*PLAN, "--topology", "v5e:2x4"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "pip install 'autoshard[tpu]'" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("kill -ABRT $$", [], "the compiler died: SIGABRT"),
        ("echo 'F0000 x.cc:1] Check failed: a == b' >&2; exit 134", [], "Check failed: a == b"),
        ("sleep 60", ["--timeout", "1"], "not done after 1 s"),
    ],
    ids=["crash", "check", "time"],
)
def test_a_compiler_that_fails(script, args, message, capsys, monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(compiler))
    out = tmp_path / "plan.json"
    code = main([*PLAN, "--topology", "cpu:8", *args, "--out", str(out), "--json"])
    assert code == ExitCode.COMPILER_FAILED
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("16GB", 16e9),
        ("16 GiB", 16 * 2**30),
        ("500M", 5e8),
        ("80e9", 80e9),
        ("1.5tb", 1.5e12),
        ("7", 7),
    ],
)
def test_sizes(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "inf", "nan", "16 parsecs"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError):
        parse_bytes(text)


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra [tpu]"
)


@pytest.mark.slow
@pytest.mark.tpu_aot
@needs_libtpu
@pytest.mark.parametrize("strategy", ["zero3", "zero3+tensor"])
@pytest.mark.parametrize("model", ["gpt2-medium", "llama-3.2-1b"])
def test_models_of_the_league_compile_for_a_tpu(model, strategy, capsys):
    """A quarter of the league's batch: activations are kept, not recomputed."""
    args = ["plan", model, "--strategy", strategy, "--topology", "v5e:2x4", "--json"]
    mesh = ["--mesh", "data=2,model=4"] if "+" in strategy else []
    size = ["--batch", "8", "--seq", "512", "--set", "dtype=bfloat16"]
    assert main([*args, *mesh, *size]) == ExitCode.OK
    compiled = json.loads(capsys.readouterr().out)["compiled"]
    assert compiled["device_kind"] == "TPU v5 lite"
    assert compiled["peak_bytes"] == compiled["peak_memory_in_bytes"] < 16 * 2**30


@pytest.mark.slow
@pytest.mark.tpu_aot
@needs_libtpu
def test_a_billion_parameters_replicated_do_not_fit(capsys):
    args = ["plan", "llama-3.2-1b", "--batch", "16", "--seq", "2048", "--strategy", "dp"]
    assert main([*args, "--topology", "v5e:2x4"]) == ExitCode.CHECK_FAILED
    text = capsys.readouterr().out
    assert "out of memory, the compiler needs" in text
    assert "does not fit" in text
