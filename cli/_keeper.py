"""Checkpoints of a training run: where it begins, and what is saved on the way."""

from typing import TYPE_CHECKING, Any, Self

from autoshard.checkpoint import Checkpointer, KeepPolicy, SavePolicy, metadata
from autoshard.cli._session import Session
from autoshard.data import ByteCorpus
from autoshard.errors import CheckpointNotFoundError, UsageError

if TYPE_CHECKING:
    from autoshard.cli._train import Train


class Keeper:
    """Saves a run's state, or does nothing where no directory was given.

    Args:
        session: The model and its step.
        checkpointer: Saves; None for a run without checkpoints.
        seed: Chooses the parameters of a new run.
        data: What the batches depend on, besides the step.
        steps: Steps of the whole run; the last one is saved whatever the policy.
    """

    def __init__(
        self,
        session: Session,
        checkpointer: Checkpointer | None,
        *,
        seed: int,
        data: dict[str, Any],
        steps: int,
    ) -> None:
        self._session = session
        self._checkpointer = checkpointer
        self._seed = seed
        self._data = data
        self._steps = steps

    def begin(self, resume: bool, steps: int) -> tuple[int, Any]:
        """Steps done before, and the state after them.

        Args:
            resume: Whether to go on from a checkpoint.
            steps: Steps of the whole run.

        Raises:
            UsageError: There are checkpoints and ``resume`` is not set, or the checkpoint is of a
                run on other batches, or has nothing left to do.
            CheckpointNotFoundError: There is nothing to resume from.
            CheckpointError: The checkpoint does not fit the model, or is damaged.
        """
        if self._checkpointer is None:
            return 0, self._session.create_state(self._seed)
        newest = self._checkpointer.latest()
        if not resume:
            if newest is not None:
                raise UsageError(
                    f"{newest.parent} has checkpoints of an earlier run ({newest.name})",
                    "--resume goes on from there; or choose another --checkpoint-dir",
                )
            return 0, self._session.create_state(self._seed)
        if newest is None:
            raise CheckpointNotFoundError(self._checkpointer.directory)
        told = metadata(newest)
        done = told.step or 0
        for name, value in self._data.items():
            saved = told.metadata.get("data", {}).get(name)
            if saved != value:
                raise UsageError(
                    f"{newest} was trained with {name}={saved}, this run has {name}={value}: its "
                    "batches would be others",
                    f"give the options of the earlier run, with {name}={saved}",
                )
        if done >= steps:
            raise UsageError(
                f"{newest} has {done} steps done already, of {steps}", f"--steps {2 * done}"
            )
        return done, self._session.restore_state(newest, self._seed)

    def after_step(self, done: int, state: Any) -> None:
        """Save if it is time."""
        if self._checkpointer is None:
            return
        if done == self._steps or self._checkpointer.should_save(done):
            self._checkpointer.save(done, state, plan=self._session.step.last_plan, data=self._data)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last save."""
        if self._checkpointer is not None:
            self._checkpointer.close()


def open_keeper(options: "Train", session: Session, corpus: ByteCorpus) -> Keeper:
    """The keeper that a command line asks for."""
    checkpointer = None
    if options.checkpoint_dir is not None:
        checkpointer = Checkpointer(
            options.checkpoint_dir,
            save=SavePolicy(every_steps=options.checkpoint_every),
            keep=KeepPolicy(last=options.checkpoint_keep),
        )
    data = {
        "seed": options.seed,
        "batch": options.batch,
        "seq": options.seq,
        "corpus": corpus.name,
        "corpus_bytes": len(corpus),
    }
    return Keeper(session, checkpointer, seed=options.seed, data=data, steps=options.steps)
