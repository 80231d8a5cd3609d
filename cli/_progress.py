"""Progress of a training run: a live bar in a terminal, plain lines in a pipe."""

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autoshard.cli._loop import Report


class Reporter(Protocol):
    """Shows reports as they come. Enter it before the first, leave it after the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, report: Report) -> None:
        """Shows one report."""
        ...


def make_reporter(console: Console, steps: int) -> Reporter:
    """A bar where the console is a terminal, lines where it is not.

    Args:
        console: Where to show; standard error leaves standard output to results.
        steps: Steps in all.
    """
    return _Bar(console, steps) if console.is_terminal else _Lines(console, steps)


@contextlib.contextmanager
def status(text: str) -> Generator[None]:
    """Shows on standard error, where that is a terminal, that something is going on."""
    console = Console(stderr=True)
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield


class _Lines:
    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        pass

    def show(self, report: Report) -> None:
        text = f"step {report.step}/{self._steps}  {_summary(report)}"
        self._console.print(text, highlight=False, soft_wrap=True)


class _Bar:
    def __init__(self, console: Console, steps: int) -> None:
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("train", total=steps, summary="compiling")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._progress.stop()

    def show(self, report: Report) -> None:
        self._progress.update(self._task, completed=report.step, summary=_summary(report))


def _summary(report: Report) -> str:
    speed = "" if report.tokens_per_s is None else f"  {report.tokens_per_s:,.0f} tokens/s"
    return f"loss {report.loss:.4f}{speed}"
