"""Checkpoints that are written on any mesh, read on any mesh, and never silently wrong."""

from autoshard.checkpoint._tensors import Role as Role
from autoshard.checkpoint._tensors import TensorInfo as TensorInfo
from autoshard.checkpoint._tensors import TensorSink as TensorSink
from autoshard.checkpoint._tensors import TensorSource as TensorSource
