"""Batches as a function of the step alone, so that any run can resume or be split exactly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoshard.data._corpus import ByteCorpus
from autoshard.errors import DataError

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSampler:
    """Draws windows of a corpus, uniformly and with replacement.

    The batch of a step depends on the corpus, the seed and the step, and on nothing that happened
    before: a run that resumes at step 1000 sees what an uninterrupted one would. The processes of
    a cluster together draw the batch that one process would.

    Attributes:
        corpus: Where the windows come from.
        batch: Sequences per step, over all processes.
        seq: Tokens that a sequence predicts; windows hold one more.
        seed: Chooses among the possible orders.
    """

    corpus: ByteCorpus
    batch: int
    seq: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seq < 1:
            raise DataError(
                f"batch={self.batch}, seq={self.seq}", "must both be at least 1", "batch=8, seq=128"
            )
        if not 0 <= self.seed < 2**64:
            raise DataError(f"seed={self.seed}", "must lie in [0, 2**64)", "seed=0")
        if len(self.corpus) < self.seq + 1:
            raise DataError(
                self.corpus.name,
                f"holds {len(self.corpus)} bytes, but a sequence of {self.seq} tokens and its "
                f"last target need {self.seq + 1}",
                f"use more text, or at most seq={len(self.corpus) - 1}",
            )

    def tokens(self, step: int, *, process_index: int = 0, process_count: int = 1) -> Tokens:
        """The batch of one step, or one process's rows of it.

        Args:
            step: Logical step, from 0.
            process_index: Which process asks, from 0.
            process_count: Processes in the cluster; must divide `batch`. Process `i` gets the
                `i`-th of as many equal blocks of rows.

        Returns:
            Token ids `[batch / process_count, seq + 1]`.

        Raises:
            DataError: `process_count` does not divide `batch`, or an index is out of range.
        """
        if step < 0:
            raise DataError(f"step={step}", "must not be negative", "step=0")
        if not 0 <= process_index < process_count:
            raise DataError(
                f"process_index={process_index}",
                f"must lie in [0, {process_count})",
                "process_index=jax.process_index(), process_count=jax.process_count()",
            )
        if self.batch % process_count:
            raise DataError(
                f"batch={self.batch}",
                f"is not a multiple of the {process_count} processes that share it",
                f"batch={-(-self.batch // process_count) * process_count}",
            )
        # Raw draws of a counter-based generator: unlike numpy's distributions, their stream is
        # promised never to change. A remainder's bias is far below one in 2**30 here.
        draws = np.random.Philox(key=np.array([self.seed, step], np.uint64)).random_raw(self.batch)
        starts = draws % np.uint64(len(self.corpus) - self.seq)
        rows = self.batch // process_count
        mine = starts[process_index * rows : (process_index + 1) * rows]
        return np.stack([self.corpus.read(int(start), self.seq + 1) for start in mine]).astype(
            np.int32
        )


def split_next_token(tokens: Tokens) -> dict[str, Tokens]:
    """Splits windows into what a language model reads and what it should predict.

    Args:
        tokens: Token ids `[batch, seq + 1]`.

    Returns:
        `inputs` and `targets`, each `[batch, seq]`, the latter one token ahead.
    """
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
