"""The hardware catalog: one typed row per device, each number with its source.

Conventions, the same for every row (they are where published numbers differ by factors of two):

- a *device* is what JAX shows as one: a chip on TPU v4 to v6e, half a chip on TPU7x, one core on
  v2 and v3, one GPU, one GCD of an MI250X;
- peaks are dense FLOP/s, never with structured sparsity;
- bandwidths are bytes/s in one direction of a full-duplex link;
- capacities are decimal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ._check import positive
from .errors import InvalidFieldError, UnknownNameError

DeviceKind = Literal["tpu", "gpu", "cpu"]
WrapRule = Literal["length-16", "cubes-of-4", "full-pod"]
ScaleUpKind = Literal["switch", "fully-connected", "hierarchical", "shared-memory"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one number comes from.

    Attributes:
        source: key or text of the source.
        verified: whether the number was read there, rather than recalled or estimated.
        note: what else is known about it.
    """

    source: str
    verified: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator as JAX sees it, with the links that leave it.

    Attributes:
        name: key in the catalog.
        kind: "tpu", "gpu" or "cpu".
        unit: what one device is, in words.
        devices_per_chip: JAX devices per chip or package.
        peak_flops: dense FLOP/s per dtype ("bf16", "fp16", "fp32", "fp8", "int8", "fp4").
        hbm_bytes: capacity of device memory.
        hbm_bytes_per_s: bandwidth of device memory.
        tile: granularity of the matrix unit in (rows, columns).
        cores: streaming multiprocessors (GPU); 0 where it does not apply.
        ici_dims: dimensions of the TPU torus; 0 without one.
        ici_link_bytes_per_s: one ICI link, one direction, per chip.
        ici_hop_latency_s: latency of one ICI hop.
        ici_wrap: rule that says which torus axes wrap around.
        ici_max_shape: largest torus in chips.
        in_package_bytes_per_s: link between the devices of one package; 0 without one.
        in_package_size: devices of one package.
        scale_up_kind: how the devices of one domain are connected.
        scale_up_bytes_per_s: injection bandwidth of a device into its domain.
        scale_up_peer_bytes_per_s: bandwidth to a single peer where domains are fully connected.
        scale_up_domain: devices per scale-up (NVLink, xGMI) domain.
        scale_up_latency_s: base latency of a collective in the domain.
        scale_out_bytes_per_s: share of the node's NICs (DCN on TPUs) that one device has.
        scale_out_latency_s: latency of one step across nodes.
        devices_per_host: devices behind one host.
        host_bytes: host memory; 0 if not known.
        host_bytes_per_s: device to host link, one direction.
        power_w: board power; 0 if not known.
        provenance: field name -> where the number comes from.
        measured: published micro-benchmarks of this device, as found.
    """

    name: str
    kind: DeviceKind
    unit: str
    peak_flops: Mapping[str, float] = field(hash=False)
    hbm_bytes: float
    hbm_bytes_per_s: float
    devices_per_chip: int = 1
    tile: tuple[int, int] = (128, 128)
    cores: int = 0
    ici_dims: int = 0
    ici_link_bytes_per_s: float = 0.0
    ici_hop_latency_s: float = 1e-6
    ici_wrap: WrapRule = "cubes-of-4"
    ici_max_shape: tuple[int, ...] = ()
    in_package_bytes_per_s: float = 0.0
    in_package_size: int = 1
    scale_up_kind: ScaleUpKind = "switch"
    scale_up_bytes_per_s: float = 0.0
    scale_up_peer_bytes_per_s: float = 0.0
    scale_up_domain: int = 1
    scale_up_latency_s: float = 1e-5
    scale_out_bytes_per_s: float = 6.25e9
    scale_out_latency_s: float = 1.4e-5
    devices_per_host: int = 8
    host_bytes: float = 0.0
    host_bytes_per_s: float = 16e9
    power_w: float = 0.0
    provenance: Mapping[str, Provenance] = field(default_factory=dict, repr=False, compare=False)
    measured: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("hbm_bytes", "hbm_bytes_per_s", "scale_out_bytes_per_s"):
            positive(f"{self.name}.{name}", getattr(self, name))
        if not self.peak_flops:
            raise InvalidFieldError(f"{self.name}.peak_flops", {}, "at least one dtype")
        for dtype, peak in self.peak_flops.items():
            positive(f"{self.name}.peak_flops.{dtype}", peak)

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s in `dtype`; 16-bit types stand in for each other.

        Args:
            dtype: "bf16", "fp16", "fp32", "fp8", "int8" or "fp4".

        Raises:
            InvalidFieldError: the device has no such arithmetic.
        """
        for candidate in (dtype, {"bf16": "fp16", "fp16": "bf16"}.get(dtype, dtype)):
            if candidate in self.peak_flops:
                return self.peak_flops[candidate]
        raise InvalidFieldError(
            "precision", dtype, ", ".join(sorted(self.peak_flops)), f"{self.name} has no {dtype}."
        )


# Path in the file -> field of Device, for numbers that carry a source.
_FIELDS = {
    "hbm_bytes": "hbm_bytes",
    "hbm_bytes_per_s": "hbm_bytes_per_s",
    "cores": "cores",
    "ici.link_bytes_per_s": "ici_link_bytes_per_s",
    "ici.hop_latency_s": "ici_hop_latency_s",
    "in_package": "in_package_bytes_per_s",
    "scale_up.bytes_per_s": "scale_up_bytes_per_s",
    "scale_up.peer_link_bytes_per_s": "scale_up_peer_bytes_per_s",
    "scale_up.domain": "scale_up_domain",
    "scale_up.latency_s": "scale_up_latency_s",
    "scale_out.bytes_per_s": "scale_out_bytes_per_s",
    "scale_out.latency_s": "scale_out_latency_s",
    "dcn_bytes_per_s": "scale_out_bytes_per_s",
    "devices_per_host": "devices_per_host",
    "host_bytes": "host_bytes",
    "host_bytes_per_s": "host_bytes_per_s",
    "power_w": "power_w",
}
_INTEGERS = {"scale_up_domain", "devices_per_host", "cores"}
_PLAIN = {"kind", "aliases", "unit", "devices_per_chip", "tile", "like", "dispatch_s", "measured"}
_GROUPS = {"ici", "scale_up", "scale_out", "peak_flops"}
_SIMPLE = {path for path in _FIELDS if "." not in path}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay a row on the row it is `like`, one level into its groups."""
    out = dict(base)
    for key, value in over.items():
        nested = key in _GROUPS and isinstance(value, Mapping)
        out[key] = {**base.get(key, {}), **value} if nested else value
    out.pop("like", None)
    return out


def _number(row_name: str, path: str, entry: Any) -> tuple[float, Provenance]:
    if isinstance(entry, Mapping):
        value, source = entry.get("value"), str(entry.get("source", ""))
        provenance = Provenance(
            source, bool(entry.get("verified", False)), str(entry.get("note", ""))
        )
    else:
        value, provenance = entry, Provenance("user", False)
    return positive(f"{row_name}.{path}", value), provenance


def _device(name: str, row: Mapping[str, Any]) -> Device:
    for key in row:
        if key not in _PLAIN | _GROUPS | _SIMPLE:
            raise InvalidFieldError(
                f"{name}.{key}", row[key], ", ".join(sorted(_PLAIN | _GROUPS | _SIMPLE))
            )
    values: dict[str, Any] = {}
    provenance: dict[str, Provenance] = {}
    for path, target in _FIELDS.items():
        entry: Any = row
        for part in path.split("."):
            entry = entry.get(part) if isinstance(entry, Mapping) else None
        if entry is None:
            continue
        value, provenance[target] = _number(name, path, entry)
        values[target] = int(value) if target in _INTEGERS else float(value)
    peaks: dict[str, float] = {}
    for dtype, entry in row.get("peak_flops", {}).items():
        peaks[dtype], provenance[f"peak_flops.{dtype}"] = _number(
            name, f"peak_flops.{dtype}", entry
        )
    ici = row.get("ici", {})
    scale_up = row.get("scale_up", {})
    if ici:
        values |= {
            "ici_dims": int(ici["dims"]),
            "ici_wrap": ici["wrap"],
            "ici_max_shape": tuple(ici["max_shape"]),
        }
    if "in_package_bytes_per_s" in values:
        values["in_package_size"] = int(row["in_package"].get("size", row["devices_per_chip"]))
    if "kind" not in row:
        raise InvalidFieldError(f"{name}.kind", None, "tpu, gpu, cpu (or 'like' another device)")
    return Device(
        name=name,
        kind=row["kind"],
        unit=row.get("unit", "one device"),
        devices_per_chip=int(row.get("devices_per_chip", 1)),
        tile=tuple(row.get("tile", (128, 128))),
        scale_up_kind=scale_up.get("kind", "switch"),
        peak_flops=peaks,
        provenance=provenance,
        measured=row.get("measured", {}),
        **values,
    )


@dataclass(frozen=True, slots=True)
class Catalog:
    """Devices by name, with the aliases under which JAX and publications know them.

    Attributes:
        devices: name -> device.
        aliases: other spellings, lower case -> name.
        sources: source key -> what it stands for.
    """

    devices: Mapping[str, Device]
    aliases: Mapping[str, str]
    sources: Mapping[str, str]

    def __getitem__(self, name: str) -> Device:
        key = name.strip().lower()
        key = self.aliases.get(key, key)
        if key not in self.devices:
            raise UnknownNameError(
                "hardware", name, sorted(self.devices), "Add your own with load_catalog(FILE.json)."
            )
        return self.devices[key]


def _parse(
    documents: list[Mapping[str, Any]],
) -> Catalog:
    rows: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for document in documents:
        sources |= document.get("sources", {})
        for name, row in document["devices"].items():
            base = rows.get(row.get("like", ""), {})
            if "like" in row and not base:
                raise UnknownNameError("hardware in 'like'", row["like"], sorted(rows))
            # A copy is known by its own names only.
            rows[name] = _merge({k: v for k, v in base.items() if k != "aliases"}, row)
    devices = {name: _device(name, row) for name, row in rows.items()}
    aliases = {
        alias.lower(): name for name, row in rows.items() for alias in row.get("aliases", ())
    }
    return Catalog(devices, aliases, sources)


@cache
def load_catalog(user_file: str | Path | None = None) -> Catalog:
    """Read the catalog that ships with the package, and a file of your own on top.

    A user's file has the same shape; a row may start from another with `like`:

        {"devices": {"my-a100": {"like": "a100", "scale_out": {"bytes_per_s": 12.5e9}}}}

    Args:
        user_file: JSON file with more devices, or None.

    Returns:
        The catalog.

    Raises:
        InvalidFieldError: a field is unknown, missing or not positive.
        UnknownNameError: `like` names no device.
    """
    text = resources.files("autoshard.cost_model").joinpath("data/hardware.json").read_text("utf-8")
    documents = [json.loads(text)]
    if user_file is not None:
        try:
            documents.append(json.loads(Path(user_file).read_text("utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise InvalidFieldError(
                "hardware file", str(user_file), "a readable JSON file", str(error) + "."
            ) from error
        if not isinstance(documents[1], dict) or "devices" not in documents[1]:
            raise InvalidFieldError(
                "hardware file", str(user_file), 'an object {"devices": {NAME: {...}}}'
            )
    return _parse(documents)


def device(name: str) -> Device:
    """Look up one device of the shipped catalog, by name or alias.

    Args:
        name: e.g. "h100", "v5e", "TPUv5p", "A100-80GB-SXM".

    Raises:
        UnknownNameError: the catalog has no such device.
    """
    return load_catalog()[name]
