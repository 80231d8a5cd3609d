"""Checkpoints that are written on any mesh, read on any mesh, and never silently wrong."""

from autoshard.checkpoint._async import Arena as Arena
from autoshard.checkpoint._async import PendingSave as PendingSave
from autoshard.checkpoint._async import save_async as save_async
from autoshard.checkpoint._checkpointer import Checkpointer as Checkpointer
from autoshard.checkpoint._checkpointer import CheckpointWarning as CheckpointWarning
from autoshard.checkpoint._directory import committed_steps as committed_steps
from autoshard.checkpoint._directory import latest as latest
from autoshard.checkpoint._directory import prune as prune
from autoshard.checkpoint._load import load as load
from autoshard.checkpoint._load import metadata as metadata
from autoshard.checkpoint._manifest import LeafEntry as LeafEntry
from autoshard.checkpoint._manifest import Manifest as Manifest
from autoshard.checkpoint._policies import KeepPolicy as KeepPolicy
from autoshard.checkpoint._policies import SavePolicy as SavePolicy
from autoshard.checkpoint._save import save as save
from autoshard.checkpoint._sink import NativeSink as NativeSink
from autoshard.checkpoint._sink import create_sink as create_sink
from autoshard.checkpoint._source import NativeSource as NativeSource
from autoshard.checkpoint._source import open_source as open_source
from autoshard.checkpoint._tensors import Role as Role
from autoshard.checkpoint._tensors import TensorInfo as TensorInfo
from autoshard.checkpoint._tensors import TensorSink as TensorSink
from autoshard.checkpoint._tensors import TensorSource as TensorSource
from autoshard.checkpoint._verify import Report as Report
from autoshard.checkpoint._verify import verify as verify
