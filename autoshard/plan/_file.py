"""Plans on disk."""

from __future__ import annotations

import os
from pathlib import Path

from autoshard.errors import (
    MissingPlanError,
    PlanFileError,
    PlanSchemaError,
    PlanWriteError,
)
from autoshard.plan._file_decode import decode_plan
from autoshard.plan._file_encode import encode_plan
from autoshard.plan._file_write import write_atomically
from autoshard.plan._plan import Plan


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan as JSON, whole or not at all.

    Args:
        plan: The plan.
        path: The file. An earlier plan there is replaced; anything else is left alone.

    Raises:
        PlanWriteError: It cannot be written, or something else is there.
    """
    target = Path(path)
    text = encode_plan(plan)
    try:
        _check_free(target)
        write_atomically(target, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PlanWriteError(
            path, reason[:1].lower() + reason[1:], "choose a folder that is there and writable"
        ) from error


def _check_free(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_file():
        raise PlanWriteError(target, "it is no file", f"{target.name}.json")
    if target.stat().st_size == 0:
        return
    try:
        load_plan(target)
    except PlanSchemaError:
        return
    except PlanFileError as error:
        raise PlanWriteError(
            target,
            "there is a file that is no plan, or a damaged one, and it stays as it is",
            f"choose another name, or remove it first: rm {target}",
        ) from error


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan that `Plan.save` wrote.

    Args:
        path: The file.

    Returns:
        The plan, for ``autoshard.parallelize(step, plan=plan)``.

    Raises:
        MissingPlanError: There is no such file.
        PlanFileError: It is no plan, damaged, or contradicts itself.
        PlanSchemaError: A newer autoshard wrote it.
    """
    try:
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingPlanError(path) from error
    except OSError as error:
        raise PlanFileError(path, f"it cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlanFileError(path, "it is no text") from error
    return decode_plan(text, str(path))
