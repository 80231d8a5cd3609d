import json
import math
import subprocess
import sys
from typing import Any

import pytest

from autoshard import models
from autoshard.api._parallelize import DEFAULT_STRATEGY
from autoshard.cli import main
from autoshard.cli._budget import Budget
from autoshard.cli._devices import device_memory_bytes
from autoshard.cli._output import memory_line
from autoshard.cli._plan import Plan
from autoshard.errors import ExitCode

PLAN = ["plan", "gpt-tiny", "--batch", "8", "--seq", "16", "--mesh", "data=2,model=4"]


def test_json_holds_every_leaf_and_adds_up(capsys):
    assert main([*PLAN, "--json"]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    assert (plan["model"], plan["strategy"]) == ("gpt-tiny", "zero3")
    assert plan["mesh"] == {"data": 2, "model": 4}
    arguments = plan["arguments"]
    # Parameters, and AdamW's two moments of each.
    params = models.get("gpt-tiny").param_count()
    floats = [leaf for leaf in arguments if leaf["dtype"] == "float32"]
    assert sum(math.prod(leaf["shape"]) for leaf in floats) == 3 * params
    assert plan["bytes_per_device"] == sum(leaf["bytes_per_device"] for leaf in arguments)
    for leaf in arguments:
        shards = math.prod(plan["mesh"][axis] for axes in leaf["spec"] for axis in axes)
        assert leaf["bytes_per_device"] * shards == leaf["bytes"]
        assert len(leaf["spec"]) == len(leaf["shape"])
        assert leaf["reason"]
    # ZeRO-3 leaves about an eighth of the state on each device.
    assert plan["bytes_per_device"] < 1.1 * 3 * 4 * params / 8 + 2 * 4 * 8 * 16
    assert plan["device_memory_bytes"] == device_memory_bytes()


def test_the_default_strategy_is_the_decorators(capsys):
    assert Plan().strategy is None
    assert main([*PLAN, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["strategy"] == DEFAULT_STRATEGY


def test_the_table_shows_paths_specs_reasons_and_totals(capsys):
    assert main([*PLAN, "--strategy", "zero3+tensor"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "wte/embedding" in text
    assert "zero3+tensor on data=2,model=4" in text
    for heading in ("path", "spec", "per device", "why"):
        assert heading in text
    assert "memory per device" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "zero9"], "zero9"),
        (["--strategy", "tensor@rows"], "rows"),
        (["--strategy", "dp+zero3+tensor"], "dp+zero3+tensor"),
        (["--mesh", "data=3"], "it needs 3 devices, 8 are visible"),
        (["--mesh", "data"], "is not of the form name=size"),
        (["--mesh", "data=2,data=4"], "an axis name stands twice"),
        (["--seq", "1024"], "set max_positions=1024"),
    ],
)
def test_what_cannot_be_planned_exits_with_two(options, message, capsys):
    assert main([*PLAN, *options]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_emulated_devices_suffice_for_a_large_model():
    argv = "plan llama-3.2-1b --emulate 64 --mesh data=8,model=8 --strategy zero3+tensor --json"
    done = subprocess.run(
        [sys.executable, "-m", "autoshard.cli", *argv.split()], capture_output=True, text=True
    )
    assert done.returncode == ExitCode.OK, done.stderr
    plan = json.loads(done.stdout)
    whole = sum(leaf["bytes"] for leaf in plan["arguments"])
    assert whole > 12 * models.get("llama-3.2-1b").param_count()
    assert plan["bytes_per_device"] < whole / 60


class _Plan:
    bytes_per_device = 3 * 2**30


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (4 * 2**30, "3.00 GiB of 4.00 GiB memory per device (75.0%)"),
        (2**30, "3.00 GiB of 1.00 GiB memory per device (300.0%): does not fit"),
        (None, "3.00 GiB of arguments per device; this device does not tell its memory"),
    ],
)
def test_totals_against_the_memory_of_a_device(memory, text):
    plan: Any = _Plan()
    assert memory_line(plan, Budget(nbytes=memory, source="this device", asked=False)) == text
