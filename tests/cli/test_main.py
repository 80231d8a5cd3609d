import re
import subprocess
import sys

import pytest

from autoshard.cli import main
from autoshard.cli._main import _COMMANDS, _parse
from autoshard.errors import ExitCode


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["train", "--help"],
        ["plan", "--help"],
        ["explain", "--help"],
        ["diff", "--help"],
        ["completion", "bash"],
        ["--version"],
        ["train", "--data", "nil"],
    ],
)
def test_jax_stays_unloaded_where_it_is_not_needed(argv):
    code = (
        "import sys; from autoshard.cli import main; code = main(sys.argv[1:]); "
        "sys.exit('jax was imported' if 'jax' in sys.modules else 10 + code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    expected = ExitCode.USAGE if "nil" in argv else ExitCode.OK
    assert done.returncode == 10 + expected, done.stderr
    assert (done.stderr if expected else done.stdout).strip()


def test_help_lists_every_command_on_a_few_lines(capsys):
    assert main(["--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    for command in ("plan", "train", "doctor"):
        assert f"• {command}" in text
    assert "AUTOSHARD_DEBUG=1" in text


@pytest.mark.parametrize("command", [c for c in _COMMANDS if c != "ckpt"])
def test_every_help_text_has_an_example_that_parses(command, capsys):
    assert main([command, "--help"]) == ExitCode.OK
    found = re.search(r"^Example: (.*?)\n\s*\n", capsys.readouterr().out, re.DOTALL | re.MULTILINE)
    assert found is not None
    example = re.match(rf"autoshard ({command}\b.*)", " ".join(found[1].split()))
    assert example is not None
    args = example[1].split(" > ")[0].split()
    assert isinstance(_parse(args), _COMMANDS[command])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_flags(shell, capsys):
    assert main(["completion", shell]) == ExitCode.OK
    script = capsys.readouterr().out
    for word in ("plan", "explain", "diff", "topology", "every-leaf"):
        assert word in script


def test_bash_reads_the_script(tmp_path, capsys):
    assert main(["completion", "bash"]) == ExitCode.OK
    script = tmp_path / "autoshard.bash"
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(
        ["bash", "-c", f"source {script} && complete -p autoshard"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


def test_a_command_has_its_whole_description(capsys):
    assert main(["train", "--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "usage: autoshard train" in text
    assert "Several processes train one model together" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing subcommand"),
        (["trainer"], "Available subcommands: plan, explain, diff, train, doctor"),
        (["plan", "--stratgy", "dp"], "--stratgy"),
        (["train", "--steps", "many"], "--steps"),
        (["plan", "gtp2"], "Did you mean 'gpt2'?"),
        (["plan", "--set", "depth=3"], "no option 'depth'"),
        (["plan", "--set", "layers=x"], "layers is of type int"),
        (["plan", "--set", "layers"], "not of the form FIELD=VALUE"),
        (["plan", "--set", "heads=5"], "hidden=128 is not a multiple of heads=5"),
        (["plan", "--batch", "0"], "--batch 0 is not above zero"),
        (["plan", "resnet-tiny", "--seq", "8"], "leave out seq=8"),
        (["train", "resnet-tiny"], "is no language model"),
        (["train", "--set", "vocab_size=255"], "too small for the 256 byte values"),
        (["train", "--lr", "-1"], "--lr -1.0 is not above zero"),
        (["train", "--seconds", "0"], "--seconds 0.0 is not above zero"),
        (["train", "--data", "no/such/file"], "no/such/file: no such file or directory"),
        (["train", "--process-id", "0"], "belong together"),
        (
            ["train", "--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id 2 does not lie in [0, 2)",
        ),
        (
            ["train", "--coordinator", "host", "--num-processes", "2", "--process-id", "0"],
            "not of the form HOST:PORT",
        ),
    ],
)
def test_bad_usage_exits_with_two_and_says_why(argv, message, capsys):
    assert main(argv) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_data_too_short_or_empty_exits_with_two(tmp_path, capsys):
    text = tmp_path / "short.txt"
    text.write_text("only a few bytes")
    assert main(["train", "--data", str(text)]) == ExitCode.USAGE
    assert "holds 16 bytes, but a sequence of 128 tokens" in capsys.readouterr().err
    text.write_text("")
    assert main(["train", "--data", str(text)]) == ExitCode.USAGE
    assert "holds no text" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("AUTOSHARD_DEBUG", "1")
    assert main(["plan", "gtp2"]) == ExitCode.USAGE
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_quiet(monkeypatch, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoshard.cli._doctor.Doctor.run", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_failing_compiler_exits_with_six(monkeypatch, capsys):
    import jax

    def run_out(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("autoshard.cli._doctor.Doctor.run", run_out)
    assert main(["doctor"]) == ExitCode.COMPILER_FAILED
    assert "RESOURCE_EXHAUSTED" in capsys.readouterr().err


def test_our_own_defects_are_not_hidden(monkeypatch):
    def break_down(self):
        raise ZeroDivisionError

    monkeypatch.setattr("autoshard.cli._doctor.Doctor.run", break_down)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m autoshard.cli doctor --json | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
