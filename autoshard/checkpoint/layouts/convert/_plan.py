"""A conversion, worked out before anything is read or written."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshard.checkpoint._commit import absolute, require_free
from autoshard.checkpoint._tensors import TensorSource
from autoshard.checkpoint.layouts import _deepspeed, _formats, _presets
from autoshard.checkpoint.layouts._apply import View, apply
from autoshard.checkpoint.layouts._bindings import Known, Side
from autoshard.checkpoint.layouts._detect import detect_layout, matches, require_match
from autoshard.checkpoint.layouts._rules import Layout
from autoshard.checkpoint.layouts._spec import Spec
from autoshard.checkpoint.layouts.convert._request import Request
from autoshard.checkpoint.layouts.convert._sources import (
    Moved,
    cast,
    merged,
    put_under,
    take_from,
)
from autoshard.errors import ConversionError, LayoutBindingError, LossyLayoutError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a conversion will do.

    Args:
        request: What was asked for.
        result: The target's tensors, not read yet.
        from_format: File format of the source.
        to_format: File format of the target.
        from_layout: Layout of the source; None for a tree as it is.
        to_layout: Layout of the target.
        dropped: Tensors that are left out → why.
        losses: What is lost beside them, one line each.
        config: The model's configuration.
        stats: Names, sizes and times of the source's files, when they were opened.
        files: File names of a target that has one for each rank.
    """

    request: Request
    result: TensorSource
    from_format: str
    to_format: str
    from_layout: Layout | None
    to_layout: Layout | None
    dropped: Mapping[str, str]
    losses: Sequence[str]
    config: Mapping[str, Any]
    stats: Sequence[Sequence[Any]]
    files: Sequence[str] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the target's tensors."""
        return sum(info.nbytes for info in self.result.tensors().values())

    def fingerprint(self) -> str:
        """Tells this conversion from others to the same place."""
        told = {
            "source": str(self.request.source.resolve()),
            "files": self.stats,
            "to": self.to_format,
            "layouts": [_described(layout) for layout in (self.from_layout, self.to_layout)],
            "casts": dict(self.request.casts),
            "tensors": [
                [name, list(info.shape), info.dtype.name]
                for name, info in self.result.tensors().items()
            ],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def require_unchanged(self) -> None:
        """Make sure that the source is what it was when it was opened.

        Raises:
            ConversionError: It is not: what was read may be of both.
        """
        now = _stats(self.request.source)
        changed = [new[0] for new in now if new not in self.stats]
        gone = [old[0] for old in self.stats if old[0] not in {new[0] for new in now}]
        if changed or gone:
            what = ", ".join(map(str, [*changed, *gone][:3]))
            raise ConversionError(
                self.request.source,
                f"was changed while it was read ({what}); nothing was converted",
                "the same command again, when nothing writes there any more",
            )

    def summary(self) -> dict[str, Any]:
        """The conversion as plain data."""
        infos = self.result.tensors()
        return {
            "source": str(self.request.source),
            "target": str(self.request.target),
            "from": {"format": self.from_format, **_described(self.from_layout)},
            "to": {"format": self.to_format, **_described(self.to_layout)},
            "tensors": len(infos),
            "bytes": self.nbytes,
            "dropped": dict(self.dropped),
            "losses": list(self.losses),
        }


def _described(layout: Layout | None) -> dict[str, Any]:
    if layout is None:
        return {"layout": None}
    return {"layout": layout.name, "quantities": dict(layout.bindings)}


def _stats(path: Path) -> list[list[Any]]:
    files = [path]
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    rows: list[list[Any]] = []
    for file in sorted(files):
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            rows.append([str(file), stat.st_size, stat.st_mtime_ns])
    return rows


def _require_outside(source: Path, target: Path) -> None:
    inside = Path(os.path.realpath(target.parent))
    if source.is_dir() and inside.is_relative_to(os.path.realpath(source)):
        raise UsageError(
            f"{target} lies inside of its source {source}",
            f"a place beside it, such as {source.resolve().with_name(target.name)}",
        )


def prepare(request: Request) -> Conversion:
    """Works out a conversion: formats, layouts, names, shapes. Reads no data.

    Args:
        request: What is asked for.

    Raises:
        CheckpointError: Source and layouts do not fit; see `autoshard.errors`.
        UsageError: The request contradicts itself.
    """
    target = absolute(request.target)
    require_free(target)
    stats = _stats(request.source)
    opened = _open(request)
    _require_outside(request.source, target)
    source, config = opened.source, opened.config
    dropped: dict[str, str] = {}
    losses: list[str] = []
    used: set[str] = set()

    def through(spec: Spec | None, source: TensorSource, side: Side) -> tuple[Any, Any]:
        if spec is None:
            return source, None
        used.update(spec.bindings)
        given = {key: value for key, value in request.given.items() if key in spec.bindings}
        known = Known(side=side, infos=source.tensors(), config=config, given=given)
        try:
            layout = spec.layout(known)
        except LayoutBindingError:
            if side == "foreign":  # names that do not fit at all are the better thing to say
                require_match(spec, source.tensors())
            raise
        view = apply(layout if side == "foreign" else layout.inverse(), source)
        _collect(view, dropped, losses, allow_lossy=request.allow_lossy)
        return view, layout

    def of_each_folder(name: str, source: TensorSource) -> TensorSource:
        """A second layout, of parameters, for each folder of them, such as fp32 and exp_avg."""
        spec = _presets.get(name)
        parts: list[TensorSource] = []
        kept: dict[str, str] = {}
        infos = source.tensors()
        for folder in dict.fromkeys(path.split("/")[0] for path in infos):
            paths = [path for path in infos if path.startswith(f"{folder}/")]
            inner = Moved(source, {path.removeprefix(f"{folder}/"): path for path in paths})
            if paths and matches(spec, inner.tensors()):
                parts.append(put_under(through(spec, inner, "foreign")[0], folder))
            else:
                kept |= {path: path for path in paths or [folder]}
        if not parts:
            through(spec, source, "foreign")  # says what does not fit
        return merged([*parts, Moved(source, kept)])

    to_spec = None if request.to_layout in (None, "none") else _presets.get(request.to_layout)
    result, from_layout = through(opened.spec, source, "foreign")
    for name in (request.from_layout or "").split("+")[1:]:
        result = of_each_folder(name, result)
    if to_spec is None:
        result = (
            put_under(result, request.under)
            if opened.spec
            else _subtree(result, request.under, dropped)
        )
    elif opened.spec is None:
        result = _subtree(result, request.under, dropped)
    result, lost = cast(result, request.casts, allow_lossy=request.allow_lossy)
    losses += lost
    result, to_layout = through(to_spec, result, "tree")
    if unknown := set(request.given) - used:
        raise UsageError(
            f"no layout here has {', '.join(sorted(unknown))}",
            f"--set knows {', '.join(sorted(used)) or 'nothing without a layout'}",
        )
    files: tuple[str, ...] = ()
    if to_spec is not None:
        names, files = _formats.named_alone(to_spec, result.tensors())
        result = Moved(result, names) if to_spec.alone else result
    to_format = _to_format(request, to_spec)
    if request.mesh is not None and to_format != "native":
        raise UsageError(
            f"a mesh says nothing to {to_format}", "leave out --mesh, or --set tp=… for ranks"
        )
    return Conversion(
        request=request,
        result=result,
        from_format=opened.format,
        to_format=to_format,
        from_layout=from_layout,
        to_layout=to_layout,
        dropped=dropped,
        losses=tuple(losses),
        config=config,
        stats=stats,
        files=files,
    )


def _subtree(source: TensorSource, under: str, dropped: dict[str, str]) -> TensorSource:
    result, outside = take_from(source, under)
    dropped.update(dict.fromkeys(outside, f"outside of {under}"))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    source: TensorSource
    format: str
    spec: Spec | None
    config: Mapping[str, Any]


def _open(request: Request) -> _Opened:
    options = _formats.OpenOptions(verify=request.verify)
    asked = request.from_layout and request.from_layout.split("+")[0]
    if asked is not None and asked.startswith("deepspeed"):
        source, spec = _deepspeed.open_deepspeed(request.source, options)
        return _Opened(source=source, format="torch", spec=spec, config=_config(request, source))
    spec = None if asked in (None, "none") else _presets.get(asked)
    if spec is not None and spec.files:
        options = _formats.OpenOptions(verify=request.verify, opaque=spec.opaque)
        source = _formats.open_files(request.source, spec, options)
        config = _config(request, source)
        return _Opened(source=source, format=spec.format, spec=spec, config=config)
    name = request.from_format
    found = _formats.by_name(name) if name else _formats.detect(request.source)
    source = found.open(request.source, options)
    config = _config(request, source)
    if asked is None and found.name != "native":
        spec = detect_layout(found.name, source.tensors(), config)
    return _Opened(source=source, format=found.name, spec=spec, config=config)


def _config(request: Request, source: TensorSource) -> Mapping[str, Any]:
    """The model's configuration: given, beside the files, or kept by an earlier import."""
    if request.config is not None:
        return request.config
    told = source.metadata()
    kept: Any = told.get("metadata") or {}
    found = told.get("config") or kept.get("config")
    if found is None:
        folder = request.source if request.source.is_dir() else request.source.parent
        file = next(
            (f for n in ("config.json", "params.json") if (f := folder / n).is_file()), None
        )
        found = json.loads(file.read_bytes()) if file else None
    return found if isinstance(found, Mapping) else {}


def _collect(view: View, dropped: dict[str, str], losses: list[str], *, allow_lossy: bool) -> None:
    dropped.update(view.dropped)
    rounding = [str(lossy) for lossy in view.losses if lossy.loss.rounds]
    if rounding and not allow_lossy:
        raise LossyLayoutError(view.layout.name, rounding)
    losses += [str(lossy) for lossy in view.losses]


def _to_format(request: Request, spec: Spec | None) -> str:
    if request.to_format is not None:
        return _formats.by_name(request.to_format).name
    if spec is not None:
        return spec.format or "safetensors"
    suffixes = {".safetensors": "safetensors", ".npz": "npz", ".msgpack": "msgpack"}
    return suffixes.get(request.target.suffix, "native")
