"""`autoshard calibrate`: measure the devices at hand for the cost model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autoshard.cli._options import option
from autoshard.errors import ExitCode, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrate:
    """Measure the devices at hand and store what the cost model needs.

    Times matrix products, copies and each collective on each mesh axis. The profile is used from
    then on for the same kind of device and the same software.

    Example: autoshard calibrate --emulate 8 --mesh 4,2

    Attributes:
        mesh: Axis sizes whose collectives are timed, for example 4,2.
        emulate: Let the CPU play this many devices.
        limit: Seconds after which no further measurement is started.
        out: File to write.
        show: Print the stored profile of the devices at hand instead of measuring.
        json: Print one JSON object instead of a table.
    """

    mesh: Annotated[str | None, option("N,...", "one axis, and two where they factor")] = None
    emulate: Annotated[int | None, option("N", "the devices there are")] = None
    limit: float = 60.0
    out: Annotated[Path | None, option("FILE", "the user's cache")] = None
    show: bool = False
    json: bool = False

    def run(self) -> int:
        """Measures, fits, writes and prints."""
        import os
        import sys

        shape = self._shape()
        if self.limit <= 0:
            raise UsageError(f"--limit {self.limit} is not above zero", "--limit 60")
        if self.emulate is not None:
            if self.emulate < 1:
                raise UsageError(f"--emulate {self.emulate} is not above zero", "--emulate 8")
            flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
            flags.append(f"--xla_force_host_platform_device_count={self.emulate}")
            os.environ["XLA_FLAGS"] = " ".join(flags)
            os.environ["JAX_PLATFORMS"] = "cpu"
        from autoshard.calibration import calibrate, installed_profile
        from autoshard.cost_model import profile_path
        from autoshard.cost_model.errors import CostModelError

        if self.show:
            profile, reason = installed_profile()
            if profile is None:
                print(f"autoshard: {reason}", file=sys.stderr)
                return ExitCode.CHECK_FAILED
            self._print(profile, None)
            return ExitCode.OK
        try:
            profile = calibrate(
                mesh_shape=shape,
                limit_s=self.limit,
                progress=lambda what: print(f"measuring {what} ...", file=sys.stderr),
            )
            path = self.out or profile_path(profile.device_kind, profile.versions)
            profile.save(path)
        except CostModelError as error:
            raise UsageError(str(error).rstrip("."), "autoshard calibrate --help") from error
        except OSError as error:
            raise UsageError(str(error), "--out profile.json") from error
        self._print(profile, path)
        return ExitCode.OK

    def _shape(self) -> tuple[int, ...] | None:
        if self.mesh is None:
            return None
        try:
            sizes = tuple(int(part) for part in self.mesh.split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            raise UsageError(f"--mesh {self.mesh} is no list of axis sizes", "--mesh 4,2")
        return sizes

    def _print(self, profile: object, path: Path | None) -> None:
        from dataclasses import asdict

        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from autoshard.cli._output import print_json
        from autoshard.cost_model import Profile

        assert isinstance(profile, Profile)
        if self.json:
            print_json({**asdict(profile), "path": str(path) if path else None})
            return
        console = Console()
        console.print(
            Text(
                f"{profile.devices} x {profile.device_kind}, {profile.date}, "
                f"{profile.seconds:.0f} s"
            )
        )
        table = Table("constant", "value", "± (log)")
        for name, value in profile.constants.items():
            table.add_row(name, f"{value:.4g}", f"{profile.width.get(name, 0.0):.2f}")
        console.print(table)
        if path is not None:
            console.print(Text(f"written to {path}"), soft_wrap=True)
