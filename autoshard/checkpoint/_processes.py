"""Agreement between the processes that save together."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax

from autoshard._compat import coordination_client

_TIMEOUT_S = 600.0
_numbers = itertools.count()


class Group:
    """All processes of the cluster, in calls that each makes in the same order.

    It goes through JAX's coordination service, not through devices, so that a thread may agree
    while others compute.

    Args:
        timeout_s: How long to wait for the slowest.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._client: Any = coordination_client()
        # Asking jax for processes starts its devices, which a lone process may not want to.
        self.index = 0 if self._client is None else jax.process_index()
        self.count = 1 if self._client is None else jax.process_count()
        self._timeout_ms = int(timeout_s * 1000)
        self._name = f"autoshard/checkpoint/{next(_numbers)}"
        self._round = 0

    @property
    def leads(self) -> bool:
        """Whether this process does what one must do alone."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all processes, in their order; a barrier too.

        Raises:
            TimeoutError: Another process did not come.
        """
        if self.count == 1:
            return [value]
        here, self._round = f"{self._name}/{self._round}", self._round + 1
        self._client.key_value_set(f"{here}/{self.index}", json.dumps(value))
        try:
            texts = [
                self._client.blocking_key_value_get(f"{here}/{i}", self._timeout_ms)
                for i in range(self.count)
            ]
        except Exception as error:  # the service's own type is not public
            raise TimeoutError(f"another process did not answer: {error}") from error
        if self._round > 1:  # all are here, so all have read the round before
            self._client.key_value_delete(f"{self._name}/{self._round - 2}/{self.index}")
        return [json.loads(text) for text in texts]
