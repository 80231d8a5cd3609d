"""Arrays that are not in memory: a piece is read, or computed from pieces, when it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autoshard.checkpoint._tensors import Index, TensorInfo, TensorSource

if TYPE_CHECKING:
    from autoshard.checkpoint.layouts._op import Op

Piece = np.ndarray[Any, Any]


@dataclass(eq=False, slots=True, kw_only=True)
class LazyArray(ABC):
    """An array of known shape and type.

    Args:
        info: What it is.
        memo: What ops keep of it between pieces: small things that need a pass over all of it, such
            as the scale of a quantised tensor.
    """

    info: TensorInfo
    memo: dict[Any, Any] = field(default_factory=dict[Any, Any])

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.info.shape

    @abstractmethod
    def read(self, index: Index) -> Piece:
        """One piece. It may be a view of something else: do not write to it."""

    @abstractmethod
    def origins(self) -> list[str]:
        """Names of the stored tensors that it is made of, in order, for messages."""


@dataclass(eq=False, slots=True, kw_only=True)
class Stored(LazyArray):
    """An array of a source."""

    source: TensorSource
    name: str

    def read(self, index: Index) -> Piece:
        """One piece."""
        return self.source.read(self.name, index)

    def origins(self) -> list[str]:
        """Its name."""
        return [self.name]


@dataclass(eq=False, slots=True, kw_only=True)
class Computed(LazyArray):
    """One of the results of an op."""

    op: "Op"
    inputs: Sequence[LazyArray]
    position: int

    def read(self, index: Index) -> Piece:
        """One piece; empty ones are not asked of the op."""
        if any(part.stop <= part.start for part in index):
            shape = tuple(max(part.stop - part.start, 0) for part in index)
            return np.empty(shape, self.info.dtype)
        # Arithmetic on arrays without dimensions gives numpy scalars.
        return np.asarray(self.op.read(self.inputs, self.position, index))

    def origins(self) -> list[str]:
        """What its inputs are made of."""
        return [name for array in self.inputs for name in array.origins()]
