"""`autoshard ckpt scrub`, `prune`, `compact` and `repair`: keeping checkpoints."""

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from autoshard.cli._ckpt_look import Place, byte_progress, tell
from autoshard.cli._options import option
from autoshard.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrub:
    """Check every checkpoint of a directory, and remember those that are whole.

    Attributes:
        directory: Where a run saves.
        json: Print one JSON object.
    """

    directory: Place = Path()
    json: bool = False

    def run(self) -> int:
        """Checks, and exits with 3 where something is damaged."""
        from autoshard.checkpoint import committed_steps, metadata, scrub
        from autoshard.errors import CheckpointError

        total = 0
        for path in committed_steps(self.directory).values():
            try:
                total += metadata(path).nbytes
            except CheckpointError:
                continue
        with byte_progress("scrub", total) as advance:
            reports = scrub(self.directory, progress=advance)
        return tell(reports, json=self.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Remove checkpoints that a policy does not keep, and what interrupted saves left.

    The newest checkpoint that was verified always stays.

    Attributes:
        directory: Where a run saves.
        keep_last: So many of the newest stay.
        keep_every: Those of steps that are multiples of this stay too.
        best: Name of a metric: the best by it stay too.
        best_count: How many of the best.
        best_mode: Whether small or large values of the metric are good.
        dry_run: Only say what would go.
        json: Print one JSON object.
    """

    directory: Place
    keep_last: Annotated[int, arg(metavar="N")] = 3
    keep_every: Annotated[int | None, option("N", "none")] = None
    best: Annotated[str | None, option("METRIC", "none")] = None
    best_count: Annotated[int, arg(metavar="N")] = 1
    best_mode: Literal["min", "max"] = "min"
    dry_run: bool = False
    json: bool = False

    def run(self) -> int:
        """Removes."""
        from autoshard.checkpoint import KeepPolicy, prune

        policy = KeepPolicy(
            last=self.keep_last,
            every=self.keep_every,
            best=self.best,
            best_count=self.best_count,
            best_mode=self.best_mode,
        )
        gone = [str(path) for path in prune(self.directory, policy, dry_run=self.dry_run)]
        if self.json:
            print(json_module.dumps({"removed": gone, "dry_run": self.dry_run}, indent=2))
            return ExitCode.OK
        for path in gone:
            print(f"{'would remove' if self.dry_run else 'removed'} {path}")
        if not gone:
            print("nothing to remove")
        return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Compact:
    """Write a checkpoint again, in the tiles and files that one process would have made.

    What many processes saved lies in as many pieces. Killed, it goes on where it was.

    Attributes:
        checkpoint: The checkpoint.
        target: The new one.
    """

    checkpoint: Place
    target: Place

    def run(self) -> int:
        """Writes."""
        from autoshard.checkpoint import compact
        from autoshard.cli._progress import status

        with status(f"writing {self.target}"):
            digest = compact(self.checkpoint, self.target)
        print(f"{self.target}: digest {digest}, that of {self.checkpoint}")
        return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Mend a damaged checkpoint in place.

    What follows from the manifest is made again. Tiles come from a copy: another checkpoint with
    the same content, saved on whatever mesh.

    Attributes:
        checkpoint: The checkpoint.
        copy: Another one with the same content.
        json: Print one JSON object.
    """

    checkpoint: Place
    copy: Annotated[
        Path | None, arg(name="from", metavar="PATH", help_behavior_hint="(default: none)")
    ] = None
    json: bool = False

    def run(self) -> int:
        """Mends, and exits with 3 where something is still damaged."""
        from autoshard.checkpoint import repair

        done = repair(self.checkpoint, self.copy)
        if not self.json:
            for name in done.mended:
                print(f"mended {name}")
        return tell([done.report], json=self.json)
