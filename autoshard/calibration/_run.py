"""`calibrate`: measure, fit, describe; and find the profile of the devices at hand."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from autoshard.cost_model import (
    Device,
    Profile,
    load_catalog,
    load_profile,
    prior_constants,
    profile_path,
)
from autoshard.cost_model.errors import InvalidFieldError, ProfileError, UnknownNameError

from ._fit import fit_constants
from ._measure import measure


def software_versions(device: Any) -> dict[str, str]:
    """What a calibration depends on besides the device."""
    return {"jax": jax.__version__, "runtime": device.client.platform_version.split("\n")[0][:60]}


def _catalog_row(device: Any) -> Device:
    kind = device.device_kind.lower()
    catalog = load_catalog()
    for name in (kind, device.platform):
        try:
            return catalog[name]
        except UnknownNameError:
            continue
    hits = [n for n in catalog.devices if n in kind]
    if hits:
        return catalog.devices[max(hits, key=len)]
    return catalog[kind]  # raises, and lists what is known


def calibrate(
    devices: Sequence[Any] | None = None,
    mesh_shape: Sequence[int] | None = None,
    *,
    stack: str = "autoshard",
    limit_s: float = 60.0,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Measure the devices at hand and fit the constants.

    Args:
        devices: JAX devices of one kind; default: all there are.
        mesh_shape: axis sizes whose collectives are timed.
        stack: software whose prior the fit starts from.
        limit_s: seconds after which no further measurement is started.
        progress: called with what comes next.

    Returns:
        The profile; `Profile.save` writes it.

    Raises:
        InvalidFieldError: devices of several kinds, or a mesh that does not hold them.
        UnknownNameError: a device that the catalog does not know.
    """
    found = list(devices or jax.devices())
    kinds = sorted({device.device_kind for device in found})
    if len(kinds) != 1:
        raise InvalidFieldError("devices", kinds, "devices of one kind")
    if mesh_shape:
        product = 1
        for size in mesh_shape:
            product *= size
        if product != len(found):
            raise InvalidFieldError("mesh", tuple(mesh_shape), f"sizes of product {len(found)}")
    start = time.perf_counter()
    row = _catalog_row(found[0])
    dtype = "fp32" if row.kind == "cpu" else "bf16"
    samples = measure(found, mesh_shape, dtype=dtype, limit_s=limit_s, progress=progress)
    values, widths = fit_constants(samples, row, prior_constants(row.name, row.kind, stack))
    raw = {
        "matmul": [list(pair) for pair in samples.matmul],
        "copy": [list(pair) for pair in samples.copy],
    }
    # The level that estimates look the times up under.
    level = "ici" if row.kind == "tpu" else "domain"
    if row.kind == "gpu" and len(found) > row.scale_up_domain:
        level = "cluster"
    for (kind, _, size), pairs in samples.collectives.items():
        raw.setdefault(f"{kind}@{level}:{size}", []).extend(list(pair) for pair in pairs)
    return Profile(
        device_kind=kinds[0],
        device=row.name,
        devices=len(found),
        versions=software_versions(found[0]),
        date=datetime.date.today().isoformat(),
        constants=values,
        width=widths,
        samples=raw,
        seconds=round(time.perf_counter() - start, 1),
    )


def installed_profile(device: Any | None = None) -> tuple[Profile | None, str]:
    """The stored profile of the devices at hand.

    Args:
        device: one of them; default: the first that JAX sees.

    Returns:
        (profile, "") or (None, why there is none).
    """
    one = device or jax.devices()[0]
    versions = software_versions(one)
    path = profile_path(one.device_kind, versions)
    if not path.exists():
        return None, f"no profile of {one.device_kind} at {path}; run: autoshard calibrate"
    try:
        return load_profile(path, device_kind=one.device_kind, versions=versions), ""
    except ProfileError as error:
        return None, str(error)
