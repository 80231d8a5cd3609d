"""Every place that touches something of JAX which is not stable across the supported versions.

Each shim names the versions it serves and when it can go.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any

from jax._src import source_info_util

# Remove when jax.extend offers the name stack and traceback of an equation (jax 0.10, 0.11: only
# jax._src.source_info_util has them, and evaluating a jaxpr with its names kept needs both).


@contextlib.contextmanager
def equation_context(eqn: Any, scope: Any) -> Generator[None]:
    """Run an equation's emission under its own source line, name stack and configuration."""
    stack = source_info_util.current_name_stack()
    if scope is not None:
        stack = stack + scope
    stack = stack + eqn.source_info.name_stack
    with (
        source_info_util.user_context(eqn.source_info.traceback, name_stack=stack),
        eqn.ctx.manager,
    ):
        yield


def join_scopes(scope: Any, eqn: Any) -> Any:
    """The name stack inside a call that is being inlined."""
    inner = eqn.source_info.name_stack
    return inner if scope is None else scope + inner


def source_line(eqn: Any) -> str:
    """``file:line (function)`` of the user frame that made an equation; empty if unknown."""
    return source_info_util.summarize(eqn.source_info)


def name_stack_text(eqn: Any, scope: Any) -> str:
    """The full name stack of an equation as text."""
    return str(join_scopes(scope, eqn))


def scan_arity(params: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of a scan's constants and carries."""
    # Remove the second way when jax 0.10 goes: 0.11 describes the operands by a tree.
    if "ft_in" in params:
        constants, carry, _ = params["ft_in"].unpack()
        return len(constants), len(carry)
    return params["num_consts"], params["num_carry"]


def add_scan_constants(params: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Params of a scan that takes more constants, before those that it has."""
    # As above.
    if "ft_in" not in params:
        return {**params, "num_consts": params["num_consts"] + n}
    from jax._src import flattree  # pyright: ignore[reportAttributeAccessIssue]

    constants, carry, scanned = params["ft_in"].unpack()
    operands = flattree.pack(((flattree.nones(n), constants), carry, scanned))
    return {**params, "ft_in": operands}


def backend_started() -> bool:
    """Whether JAX has already chosen its devices."""
    # Remove when jax offers it: jax 0.10 and 0.11 only have it in jax._src.
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def trace_context() -> Any:
    """JAX's settings that a trace depends on (precision, 64-bit mode, current mesh …), hashable."""
    # Remove when jax offers it: jax 0.10 and 0.11 only have it in jax._src.
    from jax._src import config

    return config.trace_context()


def memory_first_options(platform: str) -> dict[str, str]:
    """Compiler options that schedule for memory.

    XLA's CPU backend orders ops for concurrency by default and hoists all gathers of a step to its
    beginning (jax 0.10, 0.11), where a device would need the memory of the whole model. Remove
    when its default scheduler minds memory, as those of TPU and GPU do.
    """
    if platform != "cpu":
        return {}
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


# Remove when the type of a key array tells its implementation publicly (jax 0.10, 0.11: only
# jax.random.key_impl does, and it wants an array where there may be nothing but a shape).


def key_implementation(dtype: Any) -> str:
    """The name of the implementation behind a type of PRNG keys, as `jax.random.key` takes it."""
    return str(dtype._impl.name)


def coordination_client() -> Any:
    """The client of the service that `jax.distributed.initialize` started."""
    # Remove when jax offers barriers and values between processes publicly (jax 0.10, 0.11: only
    # through devices, which a background thread must not use while others compute).
    from jax._src import distributed

    return distributed.global_state.client


def as_weak(array: Any) -> Any:
    """The array with a weak type, which promotes as a Python number does."""
    # Remove when jax offers it: in jax 0.10 and 0.11 only Python numbers make weak types publicly.
    from jax._src.lax import lax

    return lax._convert_element_type(array, weak_type=True)  # pyright: ignore[reportPrivateUsage]


@functools.cache
def nnx_variable_access() -> tuple[
    Callable[[Any], Any], Callable[[Any, Any], None], Callable[[Any], Any]
]:
    """Functions that read and write what stands in a `flax.nnx.Variable`, and read its metadata.

    They go past flax's own methods, which cost a Python call per variable and step. Remove when
    flax reads the values of many variables at once (0.12 does not).
    """
    from flax import nnx

    value = getattr(nnx.Variable, "_raw_value", None)
    metadata = getattr(nnx.Variable, "_var_metadata", None)
    if value is None or metadata is None:
        return nnx.Variable.get_raw_value, nnx.Variable.set_raw_value, nnx.Variable.get_metadata
    return value.__get__, value.__set__, metadata.__get__
