"""The ops of the layout language, each a plain value that knows its inverse."""

from autoshard.checkpoint.layouts.ops._copies import Copies as Copies
from autoshard.checkpoint.layouts.ops._copies import Reduce as Reduce
from autoshard.checkpoint.layouts.ops._copies import Same as Same
from autoshard.checkpoint.layouts.ops._copies import Spread as Spread
from autoshard.checkpoint.layouts.ops._joining import Concat as Concat
from autoshard.checkpoint.layouts.ops._joining import Split as Split
from autoshard.checkpoint.layouts.ops._joining import Stack as Stack
from autoshard.checkpoint.layouts.ops._joining import Unstack as Unstack
from autoshard.checkpoint.layouts.ops._shaping import Flatten as Flatten
from autoshard.checkpoint.layouts.ops._shaping import Pad as Pad
from autoshard.checkpoint.layouts.ops._shaping import Rotary as Rotary
from autoshard.checkpoint.layouts.ops._shaping import Strip as Strip
from autoshard.checkpoint.layouts.ops._shaping import Transpose as Transpose
from autoshard.checkpoint.layouts.ops._shaping import Unflatten as Unflatten
from autoshard.checkpoint.layouts.ops._values import Cast as Cast
from autoshard.checkpoint.layouts.ops._values import Dequantise as Dequantise
from autoshard.checkpoint.layouts.ops._values import Quantise as Quantise
from autoshard.checkpoint.layouts.ops._values import Rescale as Rescale
