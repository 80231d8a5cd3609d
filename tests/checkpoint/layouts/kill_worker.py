"""Converts, and kills itself at the n-th change of the file system. Run as a program.

With ``journal`` for the number: once the journal first vouches for something. Files are synced by
many threads, so no number says when that is.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from autoshard.checkpoint._io import observed
from autoshard.checkpoint.layouts.convert import convert

source, target, to_format, kill_at = sys.argv[1:]
events = 0
counting = threading.Lock()


def vouched(operation, path):
    named = path.suffix in (".jsonl", ".journal")
    return named and operation == "fsync" and path.stat().st_size > 0


def observe(operation, path):
    global events
    with counting:
        events += 1
        number = events
    if vouched(operation, path) if kill_at == "journal" else number == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)


with observed(observe):
    outcome = convert(
        Path(source), Path(target), from_layout="none", to_format=to_format, budget_bytes=16 << 20
    )
print(events, outcome.bytes_resumed)
