"""Checkpoints of a training run."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from autoshard.checkpoint._agree import by_leader
from autoshard.checkpoint._async import PendingSave, start
from autoshard.checkpoint._directory import (
    committed_steps,
    latest,
    note_latest,
    note_verified,
    prune,
    step_path,
)
from autoshard.checkpoint._io import Files
from autoshard.checkpoint._load import load, metadata
from autoshard.checkpoint._manifest import Manifest
from autoshard.checkpoint._policies import KeepPolicy, SavePolicy
from autoshard.checkpoint._processes import PEER_TIMEOUT_S, Group
from autoshard.checkpoint._save import make_request, run_save, step_number
from autoshard.checkpoint._verify import verify
from autoshard.errors import (
    CheckpointError,
    CheckpointExistsError,
    CheckpointNotFoundError,
    CheckpointWriteError,
)
from autoshard.plan import Plan


class CheckpointWarning(UserWarning):
    """A checkpoint could not be saved, and training went on."""


class Checkpointer:
    """Saves a run's state by step, keeps what a policy says, and finds it again.

    A save that fails (a full disk, a file system that became read-only) does not stop the run and
    does not spoil the next save: it is told as a `CheckpointWarning` at the next `save` or `wait`,
    and stays in `failures`. Trees that no save could hold are errors at once.

    Args:
        directory: Where checkpoints go, one directory ``step_00001000`` each.
        save: When `maybe_save` saves.
        keep: Which checkpoints stay.
        background: Write in the background. The call then takes as long as holding the state on
            the host does.
        verify_saved: Read each checkpoint back after it is committed, in the background too.
        strict: Raise what failed instead of warning.
        peer_timeout_s: How long another process of the cluster may give no sign of life before a
            save fails (see `save`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        save: SavePolicy | None = None,
        keep: KeepPolicy | None = None,
        background: bool = True,
        verify_saved: bool = True,
        strict: bool = False,
        peer_timeout_s: float = PEER_TIMEOUT_S,
    ) -> None:
        self.directory = Path(os.path.abspath(directory))
        self.failures: list[CheckpointError] = []
        self._save_policy = save
        self._keep = keep or KeepPolicy()
        self._background = background
        self._verify = verify_saved
        self._strict = strict
        self._peer_timeout_s = peer_timeout_s
        self._pending: PendingSave | None = None
        self._last_step = max(self.steps(), default=None)  # a run that is resumed goes on counting
        self._last_time_s = time.monotonic()

    def steps(self) -> list[int]:
        """The steps with committed checkpoints, in order."""
        return list(committed_steps(self.directory))

    def latest(self) -> Path | None:
        """The newest committed checkpoint, if there is one."""
        return latest(self.directory)

    def should_save(self, step: int) -> bool:
        """Whether the policy wants a checkpoint of this step. All processes get one answer."""
        if self._save_policy is None:
            return False
        last = self._last_step
        steps = step if last is None or last > step else step - last
        minutes = (time.monotonic() - self._last_time_s) / 60
        due = self._save_policy.due(steps, minutes)
        if self._save_policy.every_minutes is not None:
            due = self._leader_says(step, due)  # clocks differ
        return due

    def _leader_says(self, step: int, due: bool) -> bool:
        path = step_path(self.directory, step)
        with Group(self._peer_timeout_s) as group:
            return bool(by_leader(group, path, lambda: due))

    def maybe_save(self, step: int, tree: Any, **options: Any) -> bool:
        """Save if the policy wants it; the options are those of `save`.

        Returns:
            Whether a save was begun.
        """
        if not self.should_save(step):
            return False
        self.save(step, tree, **options)
        return True

    def save(
        self,
        step: int,
        tree: Any,
        *,
        plan: Plan | None = None,
        data: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the state after a step. The save before it is waited for.

        Args:
            step: Steps done. Its checkpoint must not be there yet.
            tree: The state.
            plan: The plan of the function that it is the state of.
            data: Where the data stand, as JSON values that depend on the step and not on the
                number of processes, such as a seed and the index of the next batch.
            metrics: Numbers by which `KeepPolicy` finds the best.
            note: What else to keep, as JSON values.

        Raises:
            CheckpointExistsError: There is a checkpoint of this step.
            CheckpointKeyError: Two leaves would be stored under one name.
            CheckpointLeafError: A leaf cannot be stored.
            CheckpointWriteError: ``strict`` is set and this save, or the one before, failed.
        """
        self.wait()
        step = step_number(step)
        self._last_step, self._last_time_s = step, time.monotonic()
        path = step_path(self.directory, step)
        numbers = None if metrics is None else {k: float(value) for k, value in metrics.items()}
        known = {"data": data, "metrics": numbers, "note": note}
        described = {name: dict(value) for name, value in known.items() if value is not None}
        try:
            with Group(self._peer_timeout_s) as group:
                if by_leader(group, path, lambda: os.path.lexists(path)):
                    raise CheckpointExistsError(path)
                request = make_request(path, tree, group, step=step, plan=plan, metadata=described)

                def then(manifest: Manifest) -> None:
                    # After `wait`, every process finds the same.
                    by_leader(group, path, lambda: self._settle(step, manifest))

                if self._background:
                    self._pending = start(request, then)
                else:
                    then(run_save(request))
        except (CheckpointWriteError, OSError) as error:
            self._failed(error, path)

    def wait(self) -> None:
        """Wait until the save in the background has ended.

        Raises:
            CheckpointWriteError: ``strict`` is set and it failed.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (CheckpointError, OSError) as error:
            self._failed(error, self.directory)

    def restore(
        self,
        target: Any = None,
        *,
        step: int | None = None,
        **options: Any,
    ) -> tuple[Any, Manifest]:
        """Load a checkpoint.

        Args:
            target: As for `autoshard.checkpoint.load`.
            step: Which; the newest by default.
            **options: Those of `load`.

        Returns:
            The tree, and what the checkpoint says of itself (step, metadata).

        Raises:
            CheckpointNotFoundError: There is none.
            CheckpointError: As `load`.
        """
        self.wait()
        path = self.latest() if step is None else step_path(self.directory, step)
        if path is None:
            raise CheckpointNotFoundError(self.directory)
        return load(path, target, **options), metadata(path)

    def close(self) -> None:
        """Wait for the last save."""
        self.wait()

    def _settle(self, step: int, manifest: Manifest) -> None:
        """After a commit: verify, leave hints, and remove what is not kept."""
        files = Files()
        if self._verify:
            verify(step_path(self.directory, step)).check()
            note_verified(self.directory, step, manifest.digest, files)
        note_latest(self.directory, step, files)
        prune(self.directory, self._keep)

    def _failed(self, error: Exception, path: Path) -> None:
        if not isinstance(error, CheckpointError):
            error = CheckpointWriteError(path, getattr(error, "strerror", None) or str(error))
        self.failures.append(error)
        if self._strict:
            raise error
        warnings.warn(str(error), CheckpointWarning, stacklevel=3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
