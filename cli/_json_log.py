"""A log that programs read: JSON objects, one a line."""

import json
from pathlib import Path
from typing import Any, Self

from autoshard.errors import UsageError


class JsonLog:
    """A new file of JSON objects. Use it in a `with` statement.

    Args:
        path: The file; it must not exist yet. None for no log: writing then does nothing.

    Raises:
        UsageError: The file exists, or cannot be created.
    """

    def __init__(self, path: Path | None) -> None:
        self._stream = _create(path) if path else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            self._stream.close()

    def write(self, event: str, **values: Any) -> None:
        """Appends an object and flushes, so that the file can be followed."""
        if self._stream:
            print(json.dumps({"event": event, **values}), file=self._stream, flush=True)


def _create(path: Path) -> Any:
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError:
        raise UsageError(
            f"--json-log {path} exists already and is not overwritten",
            f"--json-log {path.with_stem(path.stem + '-2')}",
        ) from None
    except OSError as error:
        raise UsageError(
            f"--json-log {path} cannot be created: {error.strerror}", "--json-log log.jsonl"
        ) from error
