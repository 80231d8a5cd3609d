"""What came of compiling ahead of time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from autoshard.errors import CompilerError
from autoshard.lowering.ahead._target import Target

_STATISTICS = (
    *("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes"),
    *("temp_size_in_bytes", "generated_code_size_in_bytes", "peak_memory_in_bytes"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class Shortage:
    """The compiler's own word that a program needs more memory than a device has.

    Args:
        needed_bytes: What it needs, as far as the compiler got.
        available_bytes: What there is.
        message: What the compiler said.
    """

    needed_bytes: float
    available_bytes: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A program compiled for devices that are not there, or the news that it does not fit.

    Args:
        target: What it was compiled for.
        device_kind: What the compiler calls a device.
        statistics: The compiler's memory statistics by name, in bytes; empty where it ran out.
        shortage: Why it does not fit; None where the compiler found room.
        time_s: Seconds of compiling.
        text: Optimized HLO, where it was asked for.
        stderr: What the compiler wrote.
    """

    target: Target
    device_kind: str
    statistics: dict[str, int]
    shortage: Shortage | None
    time_s: float
    text: str | None
    stderr: str

    @property
    def peak_bytes(self) -> float:
        """The most memory that is in use at one time on a device, by the compiler's word.

        Where it ran out, what it needed. The CPU's compiler leaves temporaries out of its peak:
        there it is arguments + results + temporaries - reused arguments.
        """
        if self.shortage is not None:
            return self.shortage.needed_bytes
        s = self.statistics
        if self.target.platform != "cpu":
            return s["peak_memory_in_bytes"]
        held = s["argument_size_in_bytes"] + s["output_size_in_bytes"]
        return held + s["temp_size_in_bytes"] - s["alias_size_in_bytes"]

    def fits(self, memory_bytes: float | None = None) -> bool:
        """Whether a device has room for it.

        Args:
            memory_bytes: Memory of a device; that of the target's chip by default.
        """
        available = self.target.hbm_bytes if memory_bytes is None else memory_bytes
        return self.shortage is None and self.peak_bytes <= available

    def memory_analysis(self) -> Any:
        """The memory statistics, as `jax.stages.Compiled.memory_analysis` has them.

        Raises:
            CompilerError: The program does not fit, so that the compiler has none.
        """
        if self.shortage is not None:
            raise CompilerError(
                self.target.text,
                "there are no memory statistics, for the program does not fit",
                self.shortage.message,
                "ask compilation.shortage, or use more devices or another strategy",
            )
        return SimpleNamespace(**self.statistics)

    def as_text(self) -> str:
        """Optimized HLO, as `jax.stages.Compiled.as_text` gives it.

        Raises:
            CompilerError: It was not asked for, or the program does not fit.
        """
        if self.text is None:
            detail = self.shortage.message if self.shortage else ""
            raise CompilerError(
                self.target.text, "there is no optimized HLO", detail, "compile with text=True"
            )
        return self.text


def read_statistics(stats: Any) -> dict[str, int]:
    """Memory statistics of a `jax.stages.Compiled` as plain data."""
    return {name: int(getattr(stats, name, 0)) for name in _STATISTICS}


def find_shortage(message: str) -> Shortage | None:
    """Tell from a compiler's error that a program does not fit.

    Args:
        message: The error.

    Returns:
        What is needed and what there is; None where the error is another one.
    """
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B?\b", message)
    sizes = [float(number) * _UNITS[unit] for number, unit in found]
    if len(sizes) < 2:
        return None
    text = re.sub(r"^RESOURCE_EXHAUSTED: ", "", message).split("\n")[0]
    return Shortage(max(sizes[:2]), min(sizes[:2]), text)
