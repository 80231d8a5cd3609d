"""What is to be converted into what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoshard.errors import UsageError

LEAST_BUDGET_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A conversion that somebody asks for.

    Args:
        source: Where to read.
        target: Where to write; nothing may be there.
        from_layout: Layout of the source: a name, a YAML file, "none" for a tree as it is, None to
            find out.
        from_format: File format of the source; None to find out.
        to_layout: Layout of the target; None for a tree as it is.
        to_format: File format of the target; None for the layout's, or this package's own.
        under: Folder of the tree that the foreign tensors are, such as "params".
        given: Quantities of layouts.
        config: The model's configuration, where the source does not bring it along.
        casts: Pattern of paths → type.
        mesh: Mesh that the target is meant for, axis → size.
        budget_bytes: Memory for data in flight.
        jobs: Threads.
        allow_lossy: Whether layouts may round elements.
        restart: Whether an unfinished conversion to this place is thrown away.
        max_shard_bytes: Most bytes in one file of a target in several.
        verify: Whether checksums that the source's format keeps are compared.
    """

    source: Path
    target: Path
    from_layout: str | None = None
    from_format: str | None = None
    to_layout: str | None = None
    to_format: str | None = None
    under: str = ""
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    config: Mapping[str, Any] | None = None
    casts: Mapping[str, str] = field(default_factory=dict[str, str])
    mesh: Mapping[str, int] | None = None
    budget_bytes: int = 256 << 20
    jobs: int = 2
    allow_lossy: bool = False
    restart: bool = False
    max_shard_bytes: int = 5 * 10**9
    verify: bool = True

    def __post_init__(self) -> None:
        if self.budget_bytes < LEAST_BUDGET_BYTES:
            raise UsageError(
                f"a budget of {self.budget_bytes} bytes is too small to move tensors",
                f"--budget {LEAST_BUDGET_BYTES >> 20}MiB or more",
            )
        if self.jobs < 1:
            raise UsageError(f"{self.jobs} threads cannot do anything", "--jobs 1 or more")
