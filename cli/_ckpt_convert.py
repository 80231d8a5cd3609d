"""`autoshard ckpt convert`, `import`, `export` and `layouts`."""

import json as json_module
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from autoshard.cli._ckpt_look import byte_progress
from autoshard.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from autoshard.checkpoint.layouts.convert import Conversion, Outcome

Source = Annotated[Path, tyro.conf.Positional]
Strings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What all three have in common.

    Attributes:
        set: Quantities of the layouts, as name=value.
        config: The model's config.json, where the source does not bring it along.
        under: Folder of the tree that the foreign tensors are, such as params.
        cast: Types to cast to, as pattern=type: '*=bfloat16'.
        budget: Memory for data in flight.
        jobs: Threads.
        max_shard: Most bytes in one file of a target in several.
        allow_lossy: Let layouts round, as those with int8 or float8 do.
        no_verify_source: Do not compare the checksums that zip files keep.
        restart: Throw an unfinished conversion to this place away.
        dry_run: Say what would be done, and do nothing.
        json: Print one JSON object.
    """

    set: Strings = ()
    config: Path | None = None
    under: str = ""
    cast: Strings = ()
    budget: str = "256MiB"
    jobs: int = 2
    max_shard: str = "5GB"
    allow_lossy: bool = False
    no_verify_source: bool = False
    restart: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert(_Options):
    """Convert a checkpoint to another layout, file format, or mesh.

    Streams piece by piece within the memory budget, and goes on where it was killed when the same
    command is run again.

    Attributes:
        source: The checkpoint to read: its directory or file.
        target: The checkpoint to write; nothing may be there.
        from_: Layout of the source: a name, a YAML file, or none; by default it is found out.
        from_format: File format of the source; by default it is found out.
        to: Layout of the target, or none for a tree as it is.
        to_format: File format of the target; by default the layout's, or that of the name.
        mesh: Mesh that a checkpoint of this package is meant for, as data=1,model=8.
    """

    source: Source
    target: Source
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    from_format: str | None = None
    to: str | None = None
    to_format: str | None = None
    mesh: str | None = None

    def run(self) -> int:
        """Converts."""
        return _run(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import(_Options):
    """Make a checkpoint of this package from a foreign one.

    Attributes:
        source: The checkpoint to read: its directory or file.
        target: The checkpoint to write; nothing may be there.
        from_: Layout of the source: a name, a YAML file, or none; by default it is found out.
        from_format: File format of the source; by default it is found out.
        mesh: Mesh that it is meant for, as data=1,model=8.
    """

    source: Source
    target: Source
    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    from_format: str | None = None
    mesh: str | None = None

    def run(self) -> int:
        """Imports."""
        wanted = Convert(
            **_common(self),
            source=self.source,
            target=self.target,
            from_=self.from_,
            from_format=self.from_format,
            mesh=self.mesh,
            to_format="native",
        )
        return _run(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export(_Options):
    """Make a foreign checkpoint from one of this package.

    Attributes:
        source: The checkpoint to read.
        target: The checkpoint to write; nothing may be there.
        to: Layout of the target: a name or a YAML file; none keeps names and shapes.
        to_format: File format of the target; by default the layout's, or that of the name.
    """

    source: Source
    target: Source
    to: str
    to_format: str | None = None

    def run(self) -> int:
        """Exports."""
        wanted = Convert(
            **_common(self),
            source=self.source,
            target=self.target,
            to=self.to,
            to_format=self.to_format,
        )
        return _run(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """List the layouts that come along.

    Attributes:
        json: Print one JSON object.
    """

    json: bool = False

    def run(self) -> int:
        """Prints them."""
        from autoshard.checkpoint.layouts import get_layout, layout_names

        about = {name: get_layout(name).about for name in layout_names()}
        if self.json:
            print(json_module.dumps(about, indent=2))
        else:
            width = max(map(len, about))
            for name, text in about.items():
                print(f"{name:{width}}  {text}")
        return ExitCode.OK


def _common(options: _Options) -> dict[str, Any]:
    names = _Options.__dataclass_fields__
    return {name: getattr(options, name) for name in names}


def _run(wanted: Convert) -> int:
    from autoshard.checkpoint.layouts.convert import prepare

    conversion = prepare(_request(wanted))
    if wanted.dry_run:
        _print_plan(conversion, json=wanted.json)
        return ExitCode.OK
    outcome = _with_progress(conversion)
    _print_outcome(outcome, json=wanted.json)
    return ExitCode.OK


def _request(wanted: Convert) -> Any:
    from autoshard.checkpoint.layouts.convert import Request

    if not wanted.source.exists():
        raise UsageError(f"there is no {wanted.source}", "the path of a checkpoint")
    return Request(
        source=wanted.source,
        target=wanted.target,
        from_layout=wanted.from_,
        from_format=wanted.from_format,
        to_layout=wanted.to,
        to_format=wanted.to_format,
        under=wanted.under,
        given={name: _value(text) for name, text in _pairs(wanted.set, "--set heads=8").items()},
        config=_json_file(wanted.config),
        casts=_pairs(wanted.cast, "--cast '*=bfloat16'"),
        mesh=_mesh(wanted.mesh) if wanted.mesh else None,
        budget_bytes=size(wanted.budget),
        jobs=wanted.jobs,
        allow_lossy=wanted.allow_lossy,
        restart=wanted.restart,
        max_shard_bytes=size(wanted.max_shard),
        verify=not wanted.no_verify_source,
    )


def _mesh(text: str) -> dict[str, int]:
    found = _pairs(tuple(text.split(",")), "--mesh data=1,model=8")
    return {axis: int(n) if n.isdecimal() else _no_mesh(text) for axis, n in found.items()}


def _no_mesh(text: str) -> int:
    raise UsageError(f"{text!r} is no mesh", "--mesh data=1,model=8")


def _json_file(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json_module.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", "--config path/to/config.json") from error


def _pairs(texts: tuple[str, ...], example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise UsageError(f"{text!r} is no NAME=VALUE", example)
        found[name] = value
    return found


def _value(text: str) -> Any:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": 1, "false": 0}.get(text.lower(), text)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def size(text: str) -> int:
    """Bytes from a text such as 512MiB or 5GB.

    Raises:
        UsageError: It is no such text.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is no number of bytes", "--budget 512MiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _print_plan(conversion: "Conversion", *, json: bool) -> None:
    summary = conversion.summary()
    infos = conversion.result.tensors()
    if json:
        table = {n: {"shape": list(i.shape), "dtype": i.dtype.name} for n, i in infos.items()}
        print(json_module.dumps({**summary, "table": table}, indent=2))
        return
    for name, info in infos.items():
        print(f"{name}: {info.dtype.name}{list(info.shape)}")
    _print_summary(conversion)


def _print_outcome(outcome: "Outcome", *, json: bool) -> None:
    done = {
        "bytes_written": outcome.bytes_written,
        "bytes_resumed": outcome.bytes_resumed,
        "time_s": round(outcome.time_s, 3),
    }
    if json:
        print(json_module.dumps({**outcome.conversion.summary(), **done}, indent=2))
        return
    _print_summary(outcome.conversion)
    rate = outcome.bytes_written / max(outcome.time_s, 1e-9)
    again = f", {outcome.bytes_resumed:,} bytes were there" if outcome.bytes_resumed else ""
    print(f"written in {outcome.time_s:.1f} s ({rate / 1e6:,.0f} MB/s){again}")


def _print_summary(conversion: "Conversion") -> None:
    told = conversion.summary()
    for side in ("from", "to"):
        where = told["source" if side == "from" else "target"]
        layout = told[side]["layout"]
        quantities = told[side].get("quantities") or {}
        known = " ".join(f"{k}={v}" for k, v in quantities.items() if v != "")
        how = f", layout {layout} ({known})" if layout else ""
        print(f"{side:4} {where}: {told[side]['format']}{how}")
    print(f"{told['tensors']} tensors, {told['bytes']:,} bytes")
    reasons: dict[str, list[str]] = {}
    for name, reason in told["dropped"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(f"left out: {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {reason}")
    for loss in told["losses"][:10]:
        print(f"lost: {loss}")
    if len(told["losses"]) > 10:
        print(f"lost: and {len(told['losses']) - 10} more")


def _with_progress(conversion: "Conversion") -> "Outcome":
    from autoshard.checkpoint.layouts.convert import run

    seen = 0
    with byte_progress("converting", conversion.nbytes) as advance:

        def told(done: int, total: int) -> None:
            nonlocal seen
            del total
            advance(done - seen)
            seen = done

        return run(conversion, told)
