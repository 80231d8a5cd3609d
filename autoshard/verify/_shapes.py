"""HLO shapes: arrays, tokens and nested tuples, and their sizes in bytes."""

import functools
import math
import re
from dataclasses import dataclass

from autoshard.errors import HloFormatError

# An array shape with its optional layout, as in ``bf16[8,128]{1,0:T(8,128)(2,1)S(1)}``.
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([^\]]*)\](?:\{[^{}]*\})?")
_COMMA = re.compile(r"\s*,\s*")
_WIDTH = re.compile(r"[a-z]+?(\d+)")
_NO_ELEMENTS = frozenset({"token", "opaque"})


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one HLO value.

    Attributes:
        dtype: Element type as HLO spells it (``f32``, ``bf16``, ``f8e4m3fn``, ``s4``, ``pred``),
            ``token``, ``opaque``, or ``tuple``.
        dims: Dimension sizes; a bounded dynamic dimension counts with its bound.
        elements: The parts of a tuple.
    """

    dtype: str
    dims: tuple[int, ...] = ()
    elements: tuple["Shape", ...] = ()

    @property
    def leaves(self) -> tuple["Shape", ...]:
        """The arrays and tokens in it, in order."""
        if self.dtype != "tuple":
            return (self,)
        return tuple(leaf for element in self.elements for leaf in element.leaves)

    @property
    def size(self) -> int:
        """Number of array elements, over all parts of a tuple."""
        return sum(math.prod(leaf.dims) for leaf in self.leaves if leaf.dtype not in _NO_ELEMENTS)

    @property
    def bytes(self) -> int:
        """Bytes of the packed elements, without the padding of tiled layouts.

        Types narrower than a byte count with their own width, as accelerators pack them.
        """
        return sum(-(-math.prod(leaf.dims) * bits(leaf.dtype) // 8) for leaf in self.leaves)


@functools.cache
def bits(dtype: str) -> int:
    """Width of one element; the first number in a type's name is its width (``f8e4m3`` has 8)."""
    if dtype in _NO_ELEMENTS:
        return 0
    if dtype == "pred":
        return 8
    width = _WIDTH.match(dtype)
    if width is None:
        raise HloFormatError(f"element type {dtype!r} has no known width")
    return int(width[1])


def take_shape(text: str, start: int = 0) -> tuple[Shape, int]:
    """Read the shape that begins at `start`.

    Returns:
        The shape and the position behind it.

    Raises:
        HloFormatError: If no shape begins there.
    """
    if not text.startswith("(", start):
        array = _ARRAY.match(text, start)
        if array is None:
            raise HloFormatError(f"expected a shape, found {text[start : start + 40]!r}")
        return _array(array[1], array[2]), array.end()
    elements: list[Shape] = []
    position = start + 1
    while not text.startswith(")", position):
        if elements:
            comma = _COMMA.match(text, position)
            if comma is None:
                raise HloFormatError(f"tuple shape is not closed: {text[start : position + 40]!r}")
            position = comma.end()
        element, position = take_shape(text, position)
        elements.append(element)
    return Shape("tuple", elements=tuple(elements)), position + 1


@functools.lru_cache(maxsize=4096)
def _array(dtype: str, dims: str) -> Shape:
    try:
        sizes = tuple(int(d.strip().removeprefix("<=")) for d in dims.split(",") if d.strip())
    except ValueError:
        raise HloFormatError(f"{dtype}[{dims}] has a dimension that is no number") from None
    return Shape(dtype, sizes)
