"""Which layout a foreign checkpoint has: told by its config.json, else by its tensors' names."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autoshard.checkpoint._tensors import TensorInfo
from autoshard.checkpoint.layouts import _presets
from autoshard.checkpoint.layouts._apply import check_names
from autoshard.checkpoint.layouts._bindings import Known
from autoshard.checkpoint.layouts._spec import Spec
from autoshard.errors import LayoutBindingError, LayoutError, UsageError

_PREFIXES: Mapping[str, str] = MappingProxyType({"safetensors": "hf", "msgpack": "flax"})
"""How transformers keeps models: for PyTorch, and for Flax."""


def detect_layout(
    format_name: str, infos: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> Spec | None:
    """The layout of a checkpoint, or None where it is a tree as it is.

    Args:
        format_name: Its file format.
        infos: Its tensors.
        config: Its model configuration, if it has one.

    Raises:
        UsageError: Several layouts fit, or none where the format says that there is one.
    """
    family = config.get("model_type")
    named = f"{_PREFIXES.get(format_name)}_{family}"
    if named in _presets.names():
        return _presets.get(named)
    specs = [_presets.get(n) for n in _presets.names() if n not in _presets.ALIASES]
    tried = [spec for spec in specs if spec.format == format_name and not spec.files]
    fitting = [spec for spec in tried if matches(spec, infos)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(spec.name for spec in (fitting or tried)) or "none for this format"
    if fitting:
        raise UsageError(f"its names fit several layouts: {names}", f"--from {fitting[0].name}")
    if format_name not in ("safetensors", "torch"):
        return None
    told = f"; its config.json says model_type {family!r}" if family else ""
    raise UsageError(
        f"its names fit none of the layouts that were looked for: {names}{told}",
        "--from LAYOUT, --from FILE.yaml, or --from none to keep names and shapes as they are",
    )


def matches(spec: Spec, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether each tensor has one rule, and each rule has tensors. Shapes are not looked at."""
    try:
        require_match(spec, infos)
    except LayoutError:
        return False
    return True


def require_match(spec: Spec, infos: Mapping[str, TensorInfo]) -> None:
    """Raises `LayoutError` unless each tensor has one rule, and each rule has tensors.

    Quantities that nothing tells do not matter to names.
    """
    given: dict[str, Any] = {}
    while True:
        try:
            layout = spec.layout(Known(side="foreign", infos=infos, given=given))
        except LayoutBindingError as error:
            given[error.name] = 1
        else:
            check_names(layout, infos)
            return
