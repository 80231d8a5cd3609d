"""The memory that a plan is judged against: what the user says, a chip's, or that at hand."""

import re
from dataclasses import dataclass

from autoshard.errors import UsageError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Memory of a device.

    Attributes:
        nbytes: Bytes; None where nobody knows.
        source: Whose it is, in words.
        asked: Whether the user asked for the comparison: then a plan that does not fit fails.
    """

    nbytes: float | None
    source: str
    asked: bool


def parse_bytes(text: str) -> float:
    """Reads a size such as `16GB`, `16GiB`, `500M` or `80e9`.

    Raises:
        UsageError: It is none.
    """
    match = _SIZE.fullmatch(text)
    if match:
        base = 1024 if match[3] else 1000
        nbytes = float(match[1]) * base ** _POWERS[match[2].upper()]
    else:
        try:
            nbytes = float(text)
        except ValueError:
            nbytes = 0.0
    if not 0 < nbytes < float("inf"):
        raise UsageError(f"--memory {text} is no size above zero", "--memory 16GB")
    return nbytes


def find_budget(memory: str | None, chip: str | None, topology: str | None) -> Budget:
    """What the flags say: the most direct one wins.

    Args:
        memory: Bytes of a device.
        chip: A device of the hardware catalog.
        topology: A topology.

    Raises:
        UsageError: A size or a chip that does not exist.
        TopologyError: A topology that does not exist.
    """
    if memory is not None:
        return Budget(nbytes=parse_bytes(memory), source="--memory", asked=True)
    if chip is not None:
        from autoshard.cost_model import device
        from autoshard.cost_model.errors import CostModelError

        try:
            found = device(chip)
        except CostModelError as error:
            raise UsageError(str(error).rstrip("."), "--chip v5e") from error
        return Budget(nbytes=found.hbm_bytes, source=found.name, asked=True)
    if topology is not None:
        from autoshard.lowering.ahead import parse_target

        target = parse_target(topology)
        if target.platform != "cpu":
            return Budget(nbytes=target.hbm_bytes, source=target.chip, asked=True)
        nbytes = host_bytes()
        share = None if nbytes is None else nbytes / target.devices
        return Budget(nbytes=share, source="this machine's share", asked=True)
    from autoshard.cli._devices import device_memory_bytes

    return Budget(nbytes=device_memory_bytes(), source="this device", asked=False)


def host_bytes() -> float | None:
    """Memory of this machine; None where it cannot be known."""
    import os

    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not every system has sysconf
        return None
