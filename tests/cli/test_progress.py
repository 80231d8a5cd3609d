import io
import json

import pytest
from rich.console import Console

from autoshard.cli._json_log import JsonLog
from autoshard.cli._loop import Report
from autoshard.cli._progress import make_reporter
from autoshard.errors import UsageError

REPORTS = [
    Report(step=1, loss=5.5, tokens_per_s=None, time_s=2.0),
    Report(step=10, loss=2.25, tokens_per_s=12345.6, time_s=3.0),
]


def _show(**console_options):
    stream = io.StringIO()
    with make_reporter(Console(file=stream, width=100, **console_options), 10) as reporter:
        for report in REPORTS:
            reporter.show(report)
    return stream.getvalue()


def test_a_pipe_gets_plain_lines():
    assert _show() == "step 1/10  loss 5.5000\nstep 10/10  loss 2.2500  12,346 tokens/s\n"


def test_a_terminal_gets_a_bar():
    text = _show(force_terminal=True)
    assert "10/10" in text
    assert "loss 2.2500  12,346 tokens/s" in text
    assert "\x1b[" in text


def test_the_json_log_holds_an_object_a_line_and_is_never_overwritten(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLog(path) as log:
        log.write("report", step=1, loss=5.5)
        assert json.loads(path.read_text()) == {"event": "report", "step": 1, "loss": 5.5}
    with JsonLog(None) as log:
        log.write("report", step=1)
    with pytest.raises(UsageError, match=r"exists already.*\n.*log-2\.jsonl"):
        JsonLog(path)
    with pytest.raises(UsageError, match="cannot be created: No such file"):
        JsonLog(tmp_path / "missing" / "log.jsonl")
