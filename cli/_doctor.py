"""`autoshard doctor`: what is installed, what jax sees, and what does not fit."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from autoshard.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Look at the installation and the devices, and say what does not fit.

    Exits with 1 if a check fails.

    Example: autoshard doctor --json

    Attributes:
        json: Print one JSON object instead of tables.
    """

    json: bool = False

    def run(self) -> int:
        """Examines and prints."""
        from autoshard.cli import _environment as env

        versions = env.versions()
        found = _devices_or_error()
        checks = [env.check_jax_version(versions["jax"]), env.check_devices(found)]
        if isinstance(found, env.Devices):
            checks += [env.check_axis_type(found), env.check_xla_flags(found)]
        checks += [env.check_cluster(), env.check_compilers(versions), env.check_cache()]

        if self.json:
            healthy = asdict(found) if isinstance(found, env.Devices) else None
            report = {
                "versions": versions,
                "devices": healthy,
                "checks": [asdict(check) for check in checks],
            }
            print(json.dumps(report, indent=2))
        else:
            _print(versions, checks)
        failed = any(check.status == "fail" for check in checks)
        return ExitCode.CHECK_FAILED if failed else ExitCode.OK


def _devices_or_error() -> Any:
    from autoshard.cli import _environment as env

    try:
        return env.devices()
    except Exception as error:  # a broken installation is what this command is there to report
        return error


def _print(versions: dict[str, str | None], checks: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("package", "version")
    for package, version in versions.items():
        table.add_row(package, version or "not installed")
    console.print(table)
    colours = {"ok": "green", "note": "yellow", "fail": "red"}
    for check in checks:
        line = Text.assemble((f"{check.status:5}", colours[check.status]), f"{check.name}: ")
        console.print(line.append(check.detail), soft_wrap=True)
        if check.hint:
            console.print(Text(f"     {check.hint}", style="dim"), soft_wrap=True)
