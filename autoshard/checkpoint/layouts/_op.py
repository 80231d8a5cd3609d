"""What an op of a layout is: a map from some arrays to others that knows its inverse.

Ops are plain values. They say what comes out of what (`infos`, static: no data) and compute any
piece of any result by reading only the pieces of their inputs that it needs (`read`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from autoshard.checkpoint._tensors import Index, TensorInfo
from autoshard.checkpoint.layouts._lazy import Computed, LazyArray, Piece


class OpError(Exception):
    """Inputs that an op does not take. The layout's checker says where."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that an op forgets.

    Args:
        what: In words.
        rounds: Whether elements of the result are rounded ones of the input. Otherwise they are
            exact, and something beside them is left out.
    """

    what: str
    rounds: bool = False


class Op(ABC):
    """An invertible map from arrays to arrays."""

    __slots__ = ()

    @abstractmethod
    def infos(self, inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        """What the results are.

        Args:
            inputs: What the inputs are.

        Raises:
            OpError: The op does not take them.
        """

    @abstractmethod
    def read(self, inputs: Sequence[LazyArray], position: int, index: Index) -> Piece:
        """A piece of a result.

        Args:
            inputs: The inputs, such as `infos` takes.
            position: Which result.
            index: Which piece of it, not empty.
        """

    @abstractmethod
    def inverse(self) -> "Op":
        """The op from the results back to the inputs.

        Raises:
            OpError: What this op forgets cannot be written again.
        """

    def loss(self, inputs: Sequence[TensorInfo]) -> Loss | None:
        """What of the inputs the results do not tell; None if they tell everything."""
        del inputs
        return None

    def discarded(self, inputs: Sequence[TensorInfo]) -> int:
        """Elements of the inputs that no result holds: copies, paddings. Negative if it adds."""
        del inputs
        return 0

    def apply(self, inputs: Sequence[LazyArray]) -> list[LazyArray]:
        """The results, not computed yet.

        Raises:
            OpError: It does not take these inputs, or would lose elements without saying so.
        """
        infos = [array.info for array in inputs]
        results = self.infos(infos)
        before, after = (sum(math.prod(i.shape) for i in side) for side in (infos, results))
        if before - self.discarded(infos) != after:
            raise OpError(
                f"turns {before} elements into {after}, of which "
                f"{self.discarded(infos)} were to be left out"
            )
        return [
            Computed(info=info, op=self, inputs=tuple(inputs), position=position)
            for position, info in enumerate(results)
        ]


def require_count(inputs: Sequence[TensorInfo], count: int) -> None:
    """Raises `OpError` unless there are this many inputs."""
    if len(inputs) != count:
        raise OpError(f"takes {count} array{'s' * (count != 1)}, got {len(inputs)}")


def require_alike(inputs: Sequence[TensorInfo], *, but: int | None = None) -> None:
    """Raises `OpError` unless shapes and dtypes agree.

    Args:
        inputs: At least one.
        but: A dimension whose size may differ.
    """
    if not inputs:
        raise OpError("got no array")

    def key(info: TensorInfo) -> tuple[object, ...]:
        sizes = tuple(None if dim == but else size for dim, size in enumerate(info.shape))
        return (info.dtype, sizes)

    for info in inputs[1:]:
        if key(info) != key(inputs[0]):
            raise OpError(f"arrays do not fit together: {shown(inputs[0])} and {shown(info)}")


def axis(dim: int, rank: int) -> int:
    """The dimension counted from the front.

    Raises:
        OpError: There is none.
    """
    if not -rank <= dim < rank:
        raise OpError(f"has no dimension {dim}: its rank is {rank}")
    return dim % rank


def shown(info: TensorInfo) -> str:
    """Type and shape, as in ``float32[2,3]``."""
    return f"{info.dtype.name}[{','.join(map(str, info.shape))}]"
