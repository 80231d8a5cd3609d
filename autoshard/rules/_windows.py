"""How a sliding window ties an input dimension to an output dimension."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class WindowTie(enum.Enum):
    """The relation of the two dimensions that a window slides between."""

    SAME = "same"
    """Output element n sees input element n alone."""
    BLOCKS = "blocks"
    """Output element n sees only elements of the n-th block of the input."""
    HALO = "halo"
    """Output elements see their neighbourhood."""
    WHOLE = "whole"
    """The window spans most of the dimension: hardly any output is local."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One dimension of a windowed op, in elements.

    Args:
        input: Input size.
        output: Output size.
        size: Window size.
        stride: Step between windows.
        low: Padding before the input; negative crops.
        high: Padding behind it.
        input_dilation: Distance of input elements, in the padded input.
        dilation: Distance of window elements.
    """

    input: int
    output: int
    size: int
    stride: int = 1
    low: int = 0
    high: int = 0
    input_dilation: int = 1
    dilation: int = 1

    @property
    def span(self) -> int:
        """Elements from the first to the last that a window covers."""
        return (self.size - 1) * self.dilation + 1

    @property
    def stride_now(self) -> int:
        """The stride, or what it may as well be where there is only one window."""
        return self.input if self.output == 1 else self.stride

    def tie(self) -> WindowTie:
        """The relation of the two dimensions."""
        dense = self.input_dilation == 1 or self.input == 1
        if dense and self.low == 0:
            if self.input == self.output and self.span == 1 and self.stride_now == 1:
                return WindowTie.SAME
            if self.input == self.output * self.stride_now and self.span <= self.stride_now:
                return WindowTie.BLOCKS
        taken = -(-self.span // self.input_dilation)
        if self.span <= self.output // 2 + 1 and taken < self.input and self.output > 1:
            return WindowTie.HALO
        return WindowTie.WHOLE

    @property
    def fills_blocks(self) -> bool:
        """Of a window over blocks: whether it covers all of each block."""
        return self.size == self.stride_now and self.dilation == 1
