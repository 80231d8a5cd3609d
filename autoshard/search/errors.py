"""Errors of the solver. It stands alone, so it has its own base class.

Every message says what was wrong, with which values, why that is refused, and how to mend it.
"""

from __future__ import annotations

__all__ = ["MemoryBudgetError", "ProblemError", "ProblemFormatError", "SearchError"]


class SearchError(Exception):
    """Base class of every error that `autoshard.search` raises on purpose."""


class ProblemError(SearchError, ValueError):
    """A labelling problem, or a labelling of one, breaks an invariant.

    Attributes:
        field: The argument that is wrong, such as ``"edge_costs"``.
        index: Position of the first offending item within it, if there is one.
    """

    def __init__(self, field: str, what: str, *, index: int | None = None, mend: str = "") -> None:
        """Builds the text from its parts."""
        self.field = field
        self.index = index
        where = field if index is None else f"{field}[{index}]"
        super().__init__(f"{where}: {what}" + (f"\n  mend: {mend}" if mend else ""))


class ProblemFormatError(SearchError, ValueError):
    """A file is not a labelling problem in the IOPDDL JSON format.

    Attributes:
        path: The file that was read.
    """

    def __init__(self, path: str, what: str, *, mend: str = "") -> None:
        """Builds the text from its parts."""
        self.path = path
        super().__init__(f"{path}: {what}" + (f"\n  mend: {mend}" if mend else ""))


class MemoryBudgetError(SearchError, MemoryError):
    """The solver cannot work within the memory that it was allowed.

    Attributes:
        needed_bytes: What the smallest method needs, estimated.
        allowed_bytes: What the option allows.
    """

    def __init__(self, needed_bytes: int, allowed_bytes: int) -> None:
        """Builds the text from its parts."""
        self.needed_bytes = needed_bytes
        self.allowed_bytes = allowed_bytes
        super().__init__(
            f"the solver needs about {needed_bytes / 2**20:,.0f} MiB for this problem but "
            f"memory_limit_bytes allows {allowed_bytes / 2**20:,.0f} MiB"
            f"\n  mend: SolverOptions(memory_limit_bytes={needed_bytes})"
        )
