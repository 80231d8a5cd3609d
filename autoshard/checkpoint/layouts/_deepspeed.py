"""DeepSpeed's ZeRO checkpoints: the layout of their fragments is written in the files themselves."""

from pathlib import Path
from typing import Any

from autoshard.checkpoint.layouts import _formats


def open_deepspeed(path: Path, options: _formats.OpenOptions) -> tuple[Any, Any]:
    raise NotImplementedError
