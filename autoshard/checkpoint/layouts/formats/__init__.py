"""File formats of foreign checkpoints, as `TensorSource`s and `TensorSink`s."""

from autoshard.checkpoint.layouts.formats._directory import DirectorySource as DirectorySource
from autoshard.checkpoint.layouts.formats._msgpack import MsgpackSink as MsgpackSink
from autoshard.checkpoint.layouts.formats._msgpack import open_msgpack as open_msgpack
from autoshard.checkpoint.layouts.formats._npz import NpzSink as NpzSink
from autoshard.checkpoint.layouts.formats._npz import open_npz as open_npz
from autoshard.checkpoint.layouts.formats._orbax import OrbaxSource as OrbaxSource
from autoshard.checkpoint.layouts.formats._region_sink import RegionSink as RegionSink
from autoshard.checkpoint.layouts.formats._regions import RegionSource as RegionSource
from autoshard.checkpoint.layouts.formats._safetensors import SafetensorsSink as SafetensorsSink
from autoshard.checkpoint.layouts.formats._safetensors import open_safetensors as open_safetensors
from autoshard.checkpoint.layouts.formats._torch_sink import TorchSink as TorchSink
from autoshard.checkpoint.layouts.formats._torch_zip import open_torch as open_torch
