import json

import pytest

from autoshard.cli import main


def test_one_configuration(capsys):
    assert (
        main(
            [
                "estimate",
                "llama3-8b",
                "--hardware",
                "h100:8",
                "--zero",
                "3",
                "--json",
                "--recompute",
                "full",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["dp"] == 8
    assert found["fits"] is True
    assert found["step_time_s"] == pytest.approx(sum(found["terms_s"].values()))


def test_tables(capsys):
    arguments = ["estimate", "llama3-8b", "--zero", "3", "--recompute", "full", "--price", "2"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for word in ("matmul", "tokens/s", "MFU", "fits", "per million tokens", "weights"):
        assert word in shown


def test_exit_code_says_that_it_does_not_fit(capsys):
    assert main(["estimate", "llama3-70b", "--hardware", "h100:8"]) == 1
    assert "does not fit" in capsys.readouterr().out


def test_sweep_writes_a_page(tmp_path, capsys):
    page = tmp_path / "sweep.html"
    arguments = ["estimate", "llama3-8b", "--batch", "64", "--sweep", "--html", str(page), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ranked"][0]["step_time_s"] <= found["ranked"][-1]["step_time_s"]
    assert found["pareto"]
    assert "<svg" in page.read_text("utf-8")


def test_inference(capsys):
    assert main(["estimate", "llama3-8b", "--inference", "--batch", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["tpot_s"] < found["ttft_s"] < 1


def test_numbers_instead_of_a_preset(capsys):
    arguments = [
        "estimate",
        "--layers",
        "12",
        "--hidden",
        "768",
        "--heads",
        "12",
        "--hardware",
        "v5e:2x4",
        "--json",
        "--batch",
        "8",
    ]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["topology"] == "v5e:2x4"
    assert found["parameters"] < 1e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "Unknown model"),
        (["--hardware", "h100"], "Write DEVICE:SHAPE"),
        (["--tp", "3"], "8 devices"),
        (["--zero", "1", "--vpp", "2"], "vpp=2 and pp=1"),
        (["--sweep"], "--batch 256"),
        (["--sweep", "--inference"], "exclude each other"),
        (["--profile", "nowhere.json"], "autoshard calibrate"),
    ],
)
def test_bad_input_is_a_usage_error(arguments, message, capsys):
    assert main(["estimate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_calibrate_checks_its_flags(capsys):
    assert main(["calibrate", "--mesh", "two"]) == 2
    assert "--mesh 4,2" in capsys.readouterr().err
    assert main(["calibrate", "--limit", "0"]) == 2


def test_calibrate_shows_why_there_is_no_profile(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUTOSHARD_PROFILES", str(tmp_path))
    assert main(["calibrate", "--show"]) == 1
    assert "no profile" in capsys.readouterr().err
