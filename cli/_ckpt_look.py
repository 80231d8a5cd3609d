"""`autoshard ckpt ls`, `show`, `diff` and `verify`: looking without touching."""

import contextlib
import json as json_module
import sys
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from autoshard.errors import AutoshardError, ExitCode

if TYPE_CHECKING:
    from autoshard.checkpoint import LeafEntry, Report

_DIGEST_CHARACTERS = 12
_PIPE_WIDTH = 132  # columns

Place = Annotated[Path, Positional]
Places = Annotated[tuple[Path, ...], Positional]


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """List the checkpoints of a directory.

    Temporary directories of interrupted saves are listed too, as what they are.

    Attributes:
        directory: Where a run saves.
        json: Print one JSON object.
    """

    directory: Place = Path()
    json: bool = False

    def run(self) -> int:
        """Prints them."""
        from autoshard.checkpoint import overview

        rows = overview(self.directory)
        if self.json:
            print(json_module.dumps({"checkpoints": [asdict(row) for row in rows]}, indent=2))
            return ExitCode.OK
        table = Table("checkpoint", "step", "size", "leaves", "saved on", "digest", "state")
        for row in rows:
            table.add_row(
                row.name,
                "" if row.step is None else str(row.step),
                "" if row.nbytes is None else _size(row.nbytes),
                "" if row.leaves is None else str(row.leaves),
                ",".join(f"{k}={v}" for k, v in (row.mesh or {}).items()),
                (row.digest or "")[:_DIGEST_CHARACTERS],
                row.state,
            )
        _console().print(table)
        return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Show what a checkpoint holds, leaf by leaf, without reading its arrays.

    Attributes:
        checkpoint: The checkpoint.
        json: Print its manifest as JSON.
    """

    checkpoint: Place
    json: bool = False

    def run(self) -> int:
        """Prints it."""
        from autoshard.checkpoint import metadata

        found = metadata(self.checkpoint)
        if self.json:
            print(found.to_bytes().decode())
            return ExitCode.OK
        table = Table("leaf", "type", "spec", "role", "size", "tiles", "digest")
        for leaf in found.leaves:
            table.add_row(*_leaf_row(leaf))
        console = _console()
        console.print(table)
        mesh = ",".join(f"{name}={size}" for name, size in (found.mesh or {}).items())
        lines = {
            "step": found.step,
            "digest": found.digest,
            "bytes": f"{found.nbytes} in {len(found.leaves)} leaves",
            "mesh": mesh or None,
            "strategy": (found.plan or {}).get("strategy"),
            "processes": found.processes,
            "metadata": json_module.dumps(found.metadata) if found.metadata else None,
        }
        for name, value in lines.items():
            if value is not None:
                console.print(f"{name:10} {value}", markup=False, highlight=False, soft_wrap=True)
        return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Check every byte of checkpoints against what was in memory when they were saved.

    Attributes:
        checkpoints: Checkpoints.
        json: Print one JSON object.
    """

    checkpoints: Places
    json: bool = False

    def run(self) -> int:
        """Checks, and exits with 3 where something is damaged."""
        from autoshard.checkpoint import verify

        reports: list[Report] = []
        for path in self.checkpoints:
            with byte_progress(f"verify {path.name}", _bytes_of(path)) as advance:
                reports.append(verify(path, progress=advance))
        return tell(reports, json=self.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Compare two checkpoints, on whatever meshes they were saved.

    Attributes:
        first: One.
        second: The other.
        count: Read the arrays that differ, and say by how much.
        json: Print one JSON object.
    """

    first: Place
    second: Place
    count: bool = False
    json: bool = False

    def run(self) -> int:
        """Compares, and exits with 4 where they differ."""
        from autoshard.checkpoint import diff

        found = diff(self.first, self.second, count=self.count)
        if self.json:
            print(json_module.dumps({"differences": [asdict(d) for d in found]}, indent=2))
        elif found:
            for difference in found:
                print(f"{difference.path}: {difference.text}")
        else:
            print("the same content")
        return ExitCode.MISMATCH if found else ExitCode.OK


def tell(reports: "list[Report]", *, json: bool) -> int:
    """Prints what checks found, and says how to exit."""
    if json:
        rows = [
            {
                "path": str(report.path),
                "ok": report.ok,
                "files": report.files,
                "bytes": report.nbytes,
                "findings": report.findings,
            }
            for report in reports
        ]
        print(json_module.dumps({"checkpoints": rows}, indent=2))
    else:
        for report in reports:
            state = "ok" if report.ok else f"{len(report.findings)} findings"
            print(f"{report.path}: {state}, {report.files} files, {_size(report.nbytes)}")
            for finding in report.findings:
                print(f"  {finding}")
    return ExitCode.OK if all(report.ok for report in reports) else ExitCode.CORRUPT_DATA


@contextlib.contextmanager
def byte_progress(text: str, total: int) -> Generator[Callable[[int], None]]:
    """A bar with rate and time left on standard error, where that is a terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(TextColumn(text), BarColumn(), *columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda n: bar.advance(task, n)


def _bytes_of(path: Path) -> int:
    from autoshard.checkpoint import metadata

    try:
        return metadata(path).nbytes
    except AutoshardError:
        return 0


def _leaf_row(leaf: "LeafEntry") -> tuple[str, ...]:
    if not leaf.is_array:
        kind = str((leaf.value or {}).get("kind"))
        return leaf.path, kind, "", leaf.role.value, "", "", leaf.digest[:_DIGEST_CHARACTERS]
    kind = f"{leaf.prng_impl} keys" if leaf.prng_impl else leaf.dtype
    shape = "x".join(map(str, leaf.shape)) or "scalar"
    spec = ", ".join(_axes(axes) for axes in leaf.spec) if leaf.spec else ""
    tiles = str(len(leaf.format.tiles)) if leaf.has_files else "0"
    digest = leaf.digest[:_DIGEST_CHARACTERS]
    return leaf.path, f"{kind} {shape}", spec, leaf.role.value, _size(leaf.nbytes), tiles, digest


def _axes(axes: tuple[str, ...]) -> str:
    return "-" if not axes else axes[0] if len(axes) == 1 else f"({','.join(axes)})"


def _size(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{nbytes} B" if unit == "B" else f"{value:.1f} {unit}"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)
