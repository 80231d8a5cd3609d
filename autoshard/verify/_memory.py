"""Device memory of a compiled program, as its compiler reports it."""

from dataclasses import dataclass
from typing import Any

from autoshard.errors import MemoryStatsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on each device.

    Attributes:
        argument_bytes: Of the inputs.
        output_bytes: Of the results, donated inputs that they reuse included.
        alias_bytes: Of the inputs that results reuse.
        temp_bytes: Of everything else alive at the peak.
        code_bytes: Of the program itself.
        peak_bytes: The most that is alive at one time, without the code.
    """

    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    code_bytes: int
    peak_bytes: int


def memory(compiled: Any) -> Memory:
    """Read ``compiled.memory_analysis()``.

    The CPU backend's own peak leaves the temporaries out, so there it is arguments + outputs +
    temporaries - aliases. Other backends report it themselves (on TPU it agrees with that sum
    within about one percent where temporaries are reported at all).

    Args:
        compiled: What ``jax.jit(f).lower(…).compile()`` returns.

    Raises:
        MemoryStatsError: If the backend reports nothing.
    """
    stats = compiled.memory_analysis()
    platform = _platform(compiled)
    if stats is None:
        raise MemoryStatsError(platform)
    argument, output = stats.argument_size_in_bytes, stats.output_size_in_bytes
    alias, temp = stats.alias_size_in_bytes, stats.temp_size_in_bytes
    total = argument + output + temp - alias
    return Memory(
        argument_bytes=argument,
        output_bytes=output,
        alias_bytes=alias,
        temp_bytes=temp,
        code_bytes=stats.generated_code_size_in_bytes,
        peak_bytes=total if platform == "cpu" else stats.peak_memory_in_bytes,
    )


def _platform(compiled: Any) -> str:
    import jax  # here, because the rest of this package reads text without it

    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return next((next(iter(s.device_set)).platform for s in shardings), "cpu")
