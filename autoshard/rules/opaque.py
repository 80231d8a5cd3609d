"""Ops that are known to need everything whole, so that nobody is warned of them."""

from __future__ import annotations

from autoshard.rules._registry import opaque, register_rule

OPAQUE = (
    "after_all",
    "cholesky_update",  # takes no batch
    "create_token",
    "custom_linear_solve",  # its solver is any function of its operands
    "dce_sink",
    "debug_callback",  # the host function sees whole arrays, once
    "debug_print",
    "inspect_sharding",
    "io_callback",
    "platform_index",  # a scalar that the compiler fills in
    "pure_callback",
    "rng_uniform",  # every device has a state of its own
)

register_rule(*OPAQUE)(opaque)
