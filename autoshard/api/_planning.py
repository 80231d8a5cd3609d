"""Whether a step is being traced for a plan right now."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator


class _State(threading.local):
    depth = 0


_STATE = _State()


@contextlib.contextmanager
def planning() -> Generator[None]:
    """While a program is traced to be planned: what it calls is planned with it.

    A parallelized function, or a model whose class is, runs as plain code in there, for two plans
    of one op would contradict each other.
    """
    _STATE.depth += 1
    try:
        yield
    finally:
        _STATE.depth -= 1


def is_planning() -> bool:
    """Whether this thread is tracing a program that will be planned as a whole."""
    return _STATE.depth > 0
