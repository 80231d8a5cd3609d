"""Running a conversion: bounded memory, pieces in parallel, and going on after a kill."""

import contextlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshard.checkpoint._io import Files
from autoshard.checkpoint._owner import CONVERSION
from autoshard.checkpoint._tensors import Index, TensorInfo, index_shape
from autoshard.checkpoint.layouts import _formats
from autoshard.checkpoint.layouts._boxes import blocks, shifted
from autoshard.checkpoint.layouts.convert._plan import Conversion, prepare
from autoshard.checkpoint.layouts.convert._request import Request
from autoshard.errors import CheckpointError, CheckpointWriteError, ConversionError

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those there are."""

_COPIES = 4
"""How often a piece is in memory at once, at most: read, moved, joined, encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a conversion did.

    Args:
        conversion: What it was to do.
        bytes_written: Bytes of tensors that this run wrote.
        bytes_resumed: Bytes that an earlier run, which was stopped, had written.
        time_s: Seconds that it took.
    """

    conversion: Conversion
    bytes_written: int
    bytes_resumed: int
    time_s: float


def convert(source: Path, target: Path, **options: Any) -> Outcome:
    """Converts a checkpoint.

    Args:
        source: Where to read.
        target: Where to write.
        **options: The other fields of `Request`.

    Raises:
        CheckpointError: See `autoshard.errors`.
    """
    return run(prepare(Request(source=source, target=target, **options)))


def run(conversion: Conversion, progress: Progress = lambda done, total: None) -> Outcome:
    """Runs a conversion.

    A process that dies leaves what it has written; the same conversion then goes on. An error
    removes it. Nothing is visible at the target before all of it is there.

    Args:
        conversion: From `prepare`.
        progress: Told of progress.

    Raises:
        ConversionError: An unfinished conversion of something else is there.
        CheckpointError: The source is damaged, or the target cannot be written.
    """
    started = time.monotonic()
    request = conversion.request
    state = _State(request.target)
    block_bytes = state.begin(conversion, _block_bytes(request))
    options = _formats.SinkOptions(
        journal=True,
        block_bytes=block_bytes,
        max_shard_bytes=request.max_shard_bytes,
        files=tuple(conversion.files),
    )
    sink: Any = None
    try:
        sink = _creator(conversion)(request.target, options)
        written, resumed = _fill(conversion, sink, progress)
        conversion.require_unchanged()
        sink.commit()
    except KeyboardInterrupt:
        if sink is not None:
            sink.suspend()
        raise
    except BaseException as error:
        if sink is not None:
            sink.abort()
        state.end()
        if isinstance(error, CheckpointError):
            conversion.require_unchanged()  # if it was changed, that is the better thing to say
        raise
    state.end()
    conversion.result.close()
    return Outcome(
        conversion=conversion,
        bytes_written=written,
        bytes_resumed=resumed,
        time_s=time.monotonic() - started,
    )


def _creator(conversion: Conversion) -> Callable[[Path, Any], Any]:
    create = _formats.FORMATS[conversion.to_format].create
    if create is None:
        raise ConversionError(
            conversion.request.target,
            f"cannot be written as {conversion.to_format}: that format is only read here",
            "--to-format safetensors",
        )
    return create


def _block_bytes(request: Request) -> int:
    """The largest power of two of which all that is in flight fits the budget."""
    share = request.budget_bytes // (_COPIES * (request.jobs + 1))
    return 1 << (max(256 << 10, min(share, 16 << 20)).bit_length() - 1)


class _State:
    """Says, in a file beside the target, which conversion the unfinished files there are of."""

    def __init__(self, target: Path) -> None:
        self._target = Path(os.path.abspath(target))
        self._path = self._target.with_name(f".{self._target.name}{CONVERSION}")
        self._files = Files()

    def begin(self, conversion: Conversion, block_bytes: int) -> int:
        """Starts, or goes on with the block size of the first start."""
        fingerprint = conversion.fingerprint()
        found = self._read()
        if found is not None and conversion.request.restart:
            self._throw_away(conversion, found)
            found = None
        if found is not None and found["fingerprint"] != fingerprint:
            raise ConversionError(
                self._target,
                f"an unfinished conversion of {found['source']} is there, not of this source with "
                "these options",
                "the same command as then, to finish it, or --restart to throw it away",
            )
        if found is not None:
            return int(found["block_bytes"])
        entry = {
            "fingerprint": fingerprint,
            "source": str(conversion.request.source),
            "block_bytes": block_bytes,
            "format": conversion.to_format,
        }
        try:
            self._files.make_parents(self._path)
            self._files.replace(self._path, json.dumps(entry).encode())
        except OSError as error:
            self.end()
            reason = error.strerror or str(error)
            raise CheckpointWriteError(self._target, reason) from error
        return block_bytes

    def end(self) -> None:
        """Nothing unfinished is there any more."""
        with contextlib.suppress(OSError):
            self._files.remove_file(self._path)

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CheckpointWriteError(self._target, error.strerror or str(error)) from error
        except ValueError as error:
            raise ConversionError(self._path, f"is damaged: {error}", "--restart") from error

    def _throw_away(self, conversion: Conversion, found: dict[str, Any]) -> None:
        create = _formats.FORMATS[found["format"]].create
        assert create is not None, "it was written once"
        create(conversion.request.target, _formats.SinkOptions(journal=True)).abort()
        self.end()


def _fill(conversion: Conversion, sink: Any, progress: Progress) -> tuple[int, int]:
    """Writes all that is missing. Returns the bytes written, and those that were there."""
    result, request = conversion.result, conversion.request
    infos = result.tensors()
    total = conversion.nbytes
    _describe(conversion, sink)
    tiles = {name: sink.declare(name, info) for name, info in infos.items()}
    for name, value in result.values().items():
        sink.put_value(name, value)
    pending = {name: sink.pending(name) for name in infos}
    missing = sum(
        math.prod(index_shape(index)) * infos[name].dtype.itemsize
        for name, indices in pending.items()
        for index in indices
    )
    resumed = done = total - missing
    progress(done, total)
    piece_bytes = _block_bytes(request)

    def move(name: str, index: Index) -> int:
        piece = result.read(name, index)
        sink.write(name, index, piece)
        return piece.nbytes

    work = (
        (name, piece)
        for name, indices in pending.items()
        for index in indices
        for piece in _pieces(infos[name], index, tiles[name], piece_bytes)
    )
    with ThreadPoolExecutor(request.jobs) as pool:
        for count in _bounded(pool, move, work, request.jobs + 1):
            done += count
            progress(done, total)
    return done - resumed, resumed


def _bounded(
    pool: ThreadPoolExecutor,
    move: Callable[[str, Index], int],
    work: Iterator[tuple[str, Index]],
    most: int,
) -> Iterator[int]:
    """Runs work with at most so many pieces at once; an error stops the rest."""
    running: set[Future[int]] = set()
    try:
        for item in itertools.chain(work, itertools.repeat(None)):
            if item is not None:
                running.add(pool.submit(move, *item))
            if item is None and not running:
                return
            if item is None or len(running) >= most:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
    finally:
        for future in running:
            future.cancel()


def _pieces(info: TensorInfo, index: Index, tile: tuple[int, ...], nbytes: int) -> Iterator[Index]:
    """Cuts a part of a tensor along its tiles into pieces of about so many bytes."""
    shape = index_shape(index)
    starts = [part.start for part in index]
    block = [max(1, min(t, n)) for t, n in zip(tile, shape, strict=True)]
    for dim in reversed(range(len(block))):
        size = math.prod(block) * info.dtype.itemsize
        times = max(1, nbytes // max(size, 1))
        block[dim] = min(shape[dim], block[dim] * times)
    for part in blocks(shape, block):
        yield shifted(part, starts)


def _describe(conversion: Conversion, sink: Any) -> None:
    request, config = conversion.request, conversion.config
    if conversion.to_format != "native":
        sink.describe({"config": dict(config)} if config else {})
        return
    told: Any = conversion.result.metadata()
    metadata: dict[str, Any] = dict(told.get("metadata") or {})
    if config:
        metadata["config"] = dict(config)
    if conversion.from_layout is not None:
        metadata["layout"] = conversion.from_layout.name
    described: dict[str, Any] = {"metadata": metadata}
    if told.get("step") is not None:
        described["step"] = told["step"]
    if conversion.from_layout is None and not request.under and told.get("tree") is not None:
        described["tree"] = told["tree"]
    if request.mesh is not None:
        described["mesh"] = dict(request.mesh)
    elif told.get("mesh") is not None:
        described |= {key: told[key] for key in ("mesh", "plan") if told.get(key) is not None}
    sink.describe(described)
