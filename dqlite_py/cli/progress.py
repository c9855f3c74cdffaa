"""A progress bar on stderr for work that takes long; nothing where stderr is no terminal. Main thread."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class BytesBar:
    """`with BytesBar() as bar: bar.show("app", done, total)`; `is_wanted=False`: silent."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (is_wanted and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Bytes done, and in all."""
        self._progress.update(self._task, description=_plain(what), completed=done, total=total)


class TimeBar:
    """`with TimeBar("load", total_s) as bar: bar.show(over_s)`, for work that lasts as long as it was told."""

    def __init__(self, what: str, total_s: float, *, is_wanted: bool = True) -> None:
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (is_wanted and console.is_terminal),
        )
        self._task = self._progress.add_task(_plain(what), total=total_s)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, over_s: float) -> None:
        """So many seconds are over."""
        self._progress.update(self._task, completed=over_s)


def _plain(text: str) -> str:
    """Names from elsewhere cannot drive the terminal."""
    return "".join(ch if ch.isprintable() else "?" for ch in text)
