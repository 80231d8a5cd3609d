"""Agreement between the processes that save together."""

from __future__ import annotations

import itertools
import json
import time
from types import TracebackType
from typing import Any, Self

import jax

from autoshard._compat import coordination_client
from autoshard.checkpoint._signs import Signs, signs_of

PEER_TIMEOUT_S = 15.0
"""How long a process may give no sign of life. Signs come every second from a thread of its own,
so that only a process that is gone, stopped or cut off is silent for so long; and it is well below
the 100 s after which jax itself ends every process of a cluster in which one died."""

_NEVER_SEEN = 4
_ELSEWHERE = 40
_SLICE_S = 1.0
_numbers = itertools.count()


class LostPeerError(Exception):
    """Another process of a group will not answer.

    Args:
        process: Which.
        reason: How that is known.
    """

    def __init__(self, process: int, reason: str) -> None:
        self.process = process
        self.reason = reason
        super().__init__(f"process {process} {reason}")


class Group:
    """All processes of the cluster, in calls that each makes in the same order.

    It goes through JAX's coordination service, not through devices, so that a thread may agree
    while others compute. Inside its ``with`` block a process counts as taking part.

    A process is waited for as long as it takes part and gives signs of life. One that stops to give
    them is lost after ``timeout_s``; one that never gave any, and so never came to a save, after
    four times that; one that lives but does not come, after forty times that.

    Args:
        timeout_s: Seconds.
    """

    def __init__(self, timeout_s: float = PEER_TIMEOUT_S) -> None:
        self._client: Any = coordination_client()
        # Asking jax for processes starts its devices, which a lone process may not want to.
        self.index = 0 if self._client is None else jax.process_index()
        self.count = 1 if self._client is None else jax.process_count()
        self._timeout_s = timeout_s
        self._name = f"autoshard/checkpoint/{next(_numbers)}"
        self._round = 0
        self._signs: Signs | None = None
        if self.count > 1:
            self._signs = signs_of(self._client, self.index)

    @property
    def leads(self) -> bool:
        """Whether this process does what one must do alone."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all processes, in their order; a barrier too.

        Raises:
            LostPeerError: Another process did not come.
        """
        if self.count == 1:
            return [value]
        here = self._next_round()
        self._client.key_value_set(f"{here}/{self.index}", json.dumps(value))
        texts = [self._wait(f"{here}/{i}", i) for i in range(self.count)]
        if self._round > 1:  # all are here, so all have read the round before
            self._client.key_value_delete(f"{self._name}/{self._round - 2}/{self.index}")
        return [json.loads(text) for text in texts]

    def tell(self, value: Any = None) -> Any:
        """The JSON value of the first process. It waits for none of the others.

        Raises:
            LostPeerError: The first process did not come.
        """
        if self.count == 1:
            return value
        here = self._next_round()
        if self.leads:
            self._client.key_value_set(f"{here}/0", json.dumps(value))
            return value
        return json.loads(self._wait(f"{here}/0", 0))

    def leave(self, reason: str) -> None:
        """Say that this process will not answer any more, so that none waits for it."""
        if self.count > 1:
            try:
                self._client.key_value_set(f"{self._name}/left/{self.index}", reason, True)
            except jax.errors.JaxRuntimeError:
                return  # the service is gone: the others notice by themselves

    def __enter__(self) -> Self:
        if self._signs is not None:
            self._signs.enter(self._name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._signs is not None:
            self._signs.exit(self._name)
        if error is not None:
            self.leave(f"{type(error).__name__}: {error}")

    def _next_round(self) -> str:
        here, self._round = f"{self._name}/{self._round}", self._round + 1
        return here

    def _wait(self, key: str, process: int) -> str:
        """The value of a key that a process will set, unless it is lost."""
        assert self._signs is not None
        began_s = time.monotonic()
        slice_ms = int(1000 * min(_SLICE_S, self._timeout_s))
        watch = self._signs.watch(process)
        while True:
            try:
                return str(self._client.blocking_key_value_get(key, slice_ms))
            except jax.errors.JaxRuntimeError as error:
                if not str(error).startswith("DEADLINE_EXCEEDED"):
                    text = str(error).partition("\n")[0]
                    raise LostPeerError(0, f"runs the cluster's service, which said: {text}") from (
                        error
                    )
            left = self._left(process)
            if left is not None:
                raise LostPeerError(process, f"gave up ({left})")
            found = watch.look()
            if found is None:
                self._judge(
                    process, time.monotonic() - began_s, _NEVER_SEEN, "gave no sign of life"
                )
            elif watch.silent_s > self._timeout_s:
                raise LostPeerError(
                    process,
                    f"({found.told}) has given no sign of life for {watch.silent_s:.0f} s: it is "
                    "gone, stopped, or cut off",
                )
            elif self._name not in found.inside:
                how = f"({found.told}) lives, but has not come to this save"
                self._judge(process, time.monotonic() - began_s, _ELSEWHERE, how)

    def _judge(self, process: int, waited_s: float, times: int, how: str) -> None:
        if waited_s > times * self._timeout_s:
            raise LostPeerError(process, f"{how} for {waited_s:.0f} s")

    def _left(self, process: int) -> str | None:
        try:
            return str(self._client.key_value_try_get(f"{self._name}/left/{process}"))
        except jax.errors.JaxRuntimeError:
            return None  # it is not set
