"""A calibration of the devices at hand: measured, dated, and refused where it does not belong.

`autoshard calibrate` writes one JSON file per device kind and software version. It is used
automatically afterwards, but only for the same kind and versions, and not for ever.
"""

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ._constants import NAMES, Constants
from ._measured import CollectiveTables, TimeTable
from .errors import ProfileError

SCHEMA = 1
MAX_AGE_DAYS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Measured constants of one kind of device under one version of the software.

    Attributes:
        device_kind: as JAX names it, e.g. "TPU v5 lite", "NVIDIA H100 80GB HBM3", "cpu".
        device: catalog name.
        devices: devices that took part.
        versions: package -> version, e.g. {"jax": "0.10.2"}.
        date: day of the measurement, ISO.
        constants: constant -> fitted value.
        width: constant -> posterior standard deviation of its logarithm.
        samples: micro-benchmark -> list of (size, seconds).
        seconds: how long the calibration took.
    """

    device_kind: str
    device: str
    devices: int
    versions: Mapping[str, str]
    date: str
    constants: Mapping[str, float]
    width: Mapping[str, float]
    samples: Mapping[str, list[list[float]]] = field(default_factory=dict)
    seconds: float = 0.0

    def apply(self, constants: Constants) -> Constants:
        """Fitted constants with the measured ones in their place."""
        return replace(constants, **{k: v for k, v in self.constants.items() if k in NAMES})

    def tables(self) -> CollectiveTables:
        """Measured collectives; they override formulas on the same axis size."""
        found: dict[tuple[str, str, int], TimeTable] = {}
        for key, samples in self.samples.items():
            kind, _, rest = key.partition("@")
            if not rest:
                continue
            level, _, size = rest.partition(":")
            pairs = [(size_bytes, seconds) for size_bytes, seconds in samples]
            found[kind, level, int(size)] = TimeTable.from_samples(pairs)
        return CollectiveTables(found)

    def save(self, path: Path) -> None:
        """Write human-readable JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(text + "\n", "utf-8")
        partial.replace(path)


def profile_directory() -> Path:
    """Where profiles are kept: $AUTOSHARD_PROFILES, else the user's cache."""
    named = os.environ.get("AUTOSHARD_PROFILES")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "autoshard" / "profiles"


def profile_path(device_kind: str, versions: Mapping[str, str]) -> Path:
    """File of a device kind under given versions."""
    kind = "".join(c if c.isalnum() else "-" for c in device_kind.lower())
    software = "_".join(f"{name}-{versions[name]}" for name in sorted(versions))
    return profile_directory() / f"{kind}__{software}.json"


def installed_profile(device: str, *, today: datetime.date | None = None) -> Profile | None:
    """The newest valid profile of a catalog device, measured under the installed jax.

    Args:
        device: catalog name.
        today: for tests.

    Returns:
        The profile, or None; stale and foreign ones are passed over here, `load_profile` names
        the reason.
    """
    found: list[Profile] = []
    for path in sorted(profile_directory().glob("*.json")):
        try:
            profile = load_profile(path, versions={"jax": version("jax")}, today=today)
        except (ProfileError, PackageNotFoundError):
            continue
        if profile.device == device:
            found.append(profile)
    return max(found, key=lambda profile: profile.date, default=None)


def load_profile(
    path: str | Path,
    *,
    device_kind: str | None = None,
    versions: Mapping[str, str] | None = None,
    today: datetime.date | None = None,
) -> Profile:
    """Read a profile, and refuse it where it does not belong.

    Args:
        path: the file.
        device_kind: kind of the devices at hand; None accepts any.
        versions: versions of the software at hand; None accepts any.
        today: for tests.

    Raises:
        ProfileError: damaged, of another device or software, or older than `MAX_AGE_DAYS`.
    """
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ProfileError(path, f"its schema is not {SCHEMA}")
        profile = Profile(**document)
        measured = datetime.date.fromisoformat(profile.date)
        profile.apply(Constants())
    except ProfileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProfileError(path, f"it cannot be read ({type(error).__name__}: {error})") from error
    if device_kind is not None and profile.device_kind != device_kind:
        raise ProfileError(path, f"it is of {profile.device_kind!r}, not of {device_kind!r}")
    for name, wanted in (versions or {}).items():
        if profile.versions.get(name) != wanted:
            raise ProfileError(
                path, f"it was measured with {name} {profile.versions.get(name)}, not {wanted}"
            )
    age = ((today or datetime.date.today()) - measured).days
    if age > MAX_AGE_DAYS:
        raise ProfileError(path, f"it is {age} days old, {MAX_AGE_DAYS} is the limit")
    return profile
