"""Progress displays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        done = task.fields["records"]
        return Text(f"{done / elapsed:,.1f} records/s" if done and elapsed else "", style="cyan")


class RunProgress:
    """Draws a run's progress: share of the input, records, rate, time left."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._task = progress.add_task(stage, total=None, records=0)

    def records(self, done: int, share: float | None) -> None:
        """``done`` records are finished, and this share of the input; None where nobody knows."""
        total = None if share is None else 1.0
        self._progress.update(self._task, completed=share or 0.0, total=total, records=done)

    def stage(self, name: str) -> None:
        """A stage after the last record has begun."""
        self._progress.update(self._task, description=name.lower())


@contextmanager
def progress(console: Console, *, quiet: bool, stage: str = "scoring") -> Iterator[RunProgress | None]:
    """A progress display on ``console`` that begins with ``stage``, or None when quiet or when nobody watches (a
    pipe, a file)."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[records]:,} records"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        yield RunProgress(shown, stage)


@contextmanager
def download(console: Console, name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for one download; the function within is told the bytes so far and in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=None, visible=False)
        yield lambda done, total: shown.update(task, completed=done, total=total, visible=True)
