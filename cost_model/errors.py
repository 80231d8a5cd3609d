"""What goes wrong in the cost model, each with its fields and one line that mends it."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class CostModelError(Exception):
    """Base of every error that `autoshard.cost_model` raises on purpose."""


class InvalidFieldError(CostModelError, ValueError):
    """A field holds a value that cannot be priced.

    Attributes:
        field: name of the field.
        value: what was given.
        valid: what would be accepted.
    """

    def __init__(self, field: str, value: object, valid: str, why: str = ""):
        self.field, self.value, self.valid = field, value, valid
        reason = f" {why}" if why else ""
        super().__init__(f"{field}={value!r} is not valid.{reason} Valid: {valid}.")


class UnknownNameError(CostModelError, KeyError):
    """A name is in no table; the message lists the names that are.

    Attributes:
        kind: what the name should have named, e.g. "hardware".
        name: what was given.
        known: the names of the table.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        self.kind, self.name, self.known = kind, name, tuple(known)
        close = get_close_matches(str(name).lower(), self.known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        tail = f" {hint}" if hint else ""
        self.message = f"Unknown {kind} {name!r}.{guess} Known: {', '.join(self.known)}.{tail}"
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return self.message


class DegreesMismatchError(CostModelError, ValueError):
    """Parallel degrees do not multiply to the number of devices.

    Attributes:
        degrees: degree of each kind of parallelism.
        devices: number of devices of the topology.
    """

    def __init__(self, degrees: dict[str, int], devices: int, mend: str):
        self.degrees, self.devices = degrees, devices
        product = 1
        for degree in degrees.values():
            product *= degree
        shown = " x ".join(f"{name}={degree}" for name, degree in degrees.items())
        super().__init__(f"{shown} = {product}, but there are {devices} devices. {mend}")


class ContradictionError(CostModelError, ValueError):
    """Two settings exclude each other.

    Attributes:
        settings: the settings, as `name=value`.
    """

    def __init__(self, settings: Sequence[str], why: str, mend: str):
        self.settings = tuple(settings)
        super().__init__(f"{' and '.join(settings)} contradict: {why}. {mend}")


class TopologySyntaxError(CostModelError, ValueError):
    """A topology string does not follow the grammar.

    Attributes:
        text: what was given.
    """

    def __init__(self, text: str, why: str):
        self.text = text
        super().__init__(
            f"Topology {text!r}: {why}. Write DEVICE:SHAPE, e.g. 'cpu:8', 'v5e:2x4', "
            "'h100:4x8' (nodes x GPUs) or 'v5e:16x16*4' (four slices)."
        )


class PlacementError(CostModelError, ValueError):
    """A logical mesh cannot be laid onto a topology.

    Attributes:
        mesh: logical axis sizes.
        topology: the topology, as text.
    """

    def __init__(self, mesh: dict[str, int], topology: str, why: str):
        self.mesh, self.topology = mesh, topology
        shown = ",".join(f"{name}={size}" for name, size in mesh.items())
        super().__init__(f"Mesh {shown} does not lie on {topology}: {why}.")


class ProfileError(CostModelError, ValueError):
    """A calibration profile is stale, foreign or damaged and is not used.

    Attributes:
        path: the file.
        reason: why it was refused.
    """

    def __init__(self, path: object, reason: str):
        self.path, self.reason = path, reason
        super().__init__(f"Profile {path} is not used: {reason}. Run: autoshard calibrate")


class NothingFitsError(CostModelError):
    """No configuration of a sweep fits into device memory.

    Attributes:
        tried: number of configurations.
        smallest_bytes: the least memory that any of them needs, per device.
    """

    def __init__(self, tried: int, smallest_bytes: float, hbm_bytes: float):
        self.tried, self.smallest_bytes = tried, smallest_bytes
        super().__init__(
            f"None of {tried} configurations fits: the smallest needs "
            f"{smallest_bytes / 1e9:.1f} GB of {hbm_bytes / 1e9:.1f} GB per device. "
            "Use more devices, or allow recompute='full' and zero=3."
        )
