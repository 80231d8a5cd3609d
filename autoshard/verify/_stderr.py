"""What XLA's C++ code writes to stderr while it compiles."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass

from autoshard.verify._module import unquote
from autoshard.verify._text import parse_module

_REMATERIALIZATION = re.compile(
    r"Involuntary full rematerialization\. The compiler (?:cannot go|was not able to go) "
    r"from sharding (?P<source>\{.*?\}) to (?P<target>\{.*?\}) (?:efficiently|without) "
    r".*?for HLO operation (?P<hlo>.*?)\. As the last resort"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rematerialization:
    """One array that the partitioner replicates on every device to change its sharding.

    Attributes:
        hlo: The instruction, of a module before partitioning.
        source_sharding: Where it comes from, in HLO's notation.
        target_sharding: Where it has to go.
        op_name: JAX's name stack; empty if unknown.
        source_file: Where the user wrote it; empty if unknown.
        source_line: The line in that file; 0 if unknown.
    """

    hlo: str
    source_sharding: str
    target_sharding: str
    op_name: str
    source_file: str
    source_line: int


def involuntary_rematerializations(
    stderr: str, hlo_text: str | None = None
) -> tuple[Rematerialization, ...]:
    """Find XLA's warnings of "involuntary full rematerialization".

    Args:
        stderr: What the compiler wrote, from `capture_native_stderr`.
        hlo_text: The compiled program's ``as_text()``. Its table of stack frames gives the source
            lines: the warnings themselves carry a frame's number only.
    """
    frames = parse_module(hlo_text).frames if hlo_text is not None else {}
    found: list[Rematerialization] = []
    for match in _REMATERIALIZATION.finditer(stderr):
        hlo = match["hlo"]
        frame = re.search(r"stack_frame_id=(\d+)", hlo)
        file = re.search(r'source_file="([^"]*)"', hlo)
        line = re.search(r"source_line=(\d+)", hlo)
        source = frames.get(int(frame[1])) if frame else None
        name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', hlo)
        found.append(
            Rematerialization(
                hlo=hlo,
                source_sharding=match["source"],
                target_sharding=match["target"],
                op_name=unquote(name[1]) if name else "",
                source_file=source.file if source else file[1] if file else "",
                source_line=source.line if source else int(line[1]) if line else 0,
            )
        )
    return tuple(found)


class CapturedStderr:
    """Text that `capture_native_stderr` has caught; complete once its block is left."""

    def __init__(self) -> None:
        self.text = ""


@contextlib.contextmanager
def capture_native_stderr() -> Generator[CapturedStderr]:
    """Catch everything that the process writes to file descriptor 2, C++ code included.

    Other threads' output is caught, too. The descriptor is restored in every case. If the block
    raises, what was caught is written to the real stderr, so that no message is lost with it; if
    the process dies inside the block, the messages die with it.

    Example:
        >>> import os
        >>> with capture_native_stderr() as captured:
        ...     _ = os.write(2, b"from C++")
        >>> captured.text
        'from C++'
    """
    captured = CapturedStderr()
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield captured
            finally:
                sys.stderr.flush()
                os.dup2(saved, 2)
                file.seek(0)
                captured.text = file.read().decode(errors="replace")
    except BaseException:
        os.write(2, captured.text.encode())
        raise
    finally:
        os.close(saved)
