"""A laptop that plays many devices."""

from __future__ import annotations

import os
import re
import sys

from autoshard.errors import EmulationError

_FLAG = "--xla_force_host_platform_device_count"


def emulate(n_devices: int) -> None:
    """Let the CPU play several devices.

    It has to be called before JAX chooses its devices, that is before the first array or
    ``jax.devices()``. Calling it again with the same number is harmless.

    Args:
        n_devices: Number of devices.

    Raises:
        EmulationError: JAX has already started with other devices, or the number is not positive.
    """
    if type(n_devices) is not int or n_devices < 1:
        raise EmulationError(n_devices, "the number of devices is a positive integer")
    if "jax" in sys.modules:
        import jax

        from autoshard._compat import backend_started

        if backend_started():
            devices = jax.devices()
            if len(devices) == n_devices and devices[0].platform == "cpu":
                return
            raise EmulationError(
                n_devices,
                f"JAX has already started with {len(devices)} {devices[0].platform} device(s)",
            )
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", n_devices)
    # Either the flag or the setting counts; a flag that says otherwise would win over it.
    flags = re.sub(rf"{_FLAG}=\S*", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={n_devices}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
