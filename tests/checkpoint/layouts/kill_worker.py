"""Converts, and kills itself at the n-th change of the file system. Run as a program."""

import os
import signal
import sys
from pathlib import Path

from autoshard.checkpoint._io import observed
from autoshard.checkpoint.layouts.convert import convert

source, target, to_format, kill_at = sys.argv[1:]
events = 0


def observe(operation, path):
    global events
    events += 1
    if events == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)


with observed(observe):
    outcome = convert(
        Path(source), Path(target), from_layout="none", to_format=to_format, budget_bytes=16 << 20
    )
print(events, outcome.bytes_resumed)
