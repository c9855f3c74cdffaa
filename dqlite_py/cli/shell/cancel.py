"""Ctrl-C while a statement runs: it is cancelled at its node, and the shell goes on. Main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Cancelled(Exception):
    """The user ended what was running."""


class Cancel:
    """`is_requested`: since `begin`. One that comes when a statement is just done counts for what follows of it."""

    def __init__(self) -> None:
        self.is_requested = False

    def begin(self) -> None:
        """What was asked for before is over."""
        self.is_requested = False

    def check(self) -> None:
        """Raises Cancelled once Ctrl-C was pressed."""
        if self.is_requested:
            raise Cancelled

    @contextmanager
    def between(self) -> Iterator[None]:
        """Outside `watching`, Ctrl-C ends nothing: it comes too late for a statement, or too early."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def watching(self, interrupt: Callable[[], None] | None) -> Iterator[None]:
        """Ctrl-C calls `interrupt`, once; without one, and at the second time, it is a KeyboardInterrupt.

        What is interrupted at its node answers with what is true. What is not listened to there (a write outside a
        transaction) is only not waited for any more, and may happen.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def received(_number: int, _frame: FrameType | None) -> None:
            again, self.is_requested = self.is_requested, True
            if again or interrupt is None:
                raise KeyboardInterrupt
            interrupt()

        before = signal.signal(signal.SIGINT, received)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
