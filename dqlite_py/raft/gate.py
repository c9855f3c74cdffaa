"""Between the core's effects and the journal thread: what reveals something waits until that is durable. Loop thread.

Batches become durable in the order submitted, so a message that needs "everything so far" waits for the newest batch.
Many reports of the journal thread cost one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from dqlite_py.model import NodeId
from dqlite_py.raft.effects import Effects
from dqlite_py.raft.journal import JournalBatch, JournalThread
from dqlite_py.raft.messages import Message

log = logging.getLogger("dqlite_py.raft")

Gated = list[tuple[NodeId, Message]]


class DurabilityGate:
    """Submits batches; when they are on the disk, sends the gated messages and reports the newest token."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal_thread: JournalThread,
        send_all: Callable[[Gated], None],
        on_durable: Callable[[int, BaseException | None], None],
    ) -> None:
        self._loop = loop
        self._journal_thread = journal_thread
        self._send_all = send_all
        self._on_durable = on_durable
        self._reports: deque[tuple[int, Gated, BaseException | None]] = deque()
        self._woken = False
        self._in_journal = 0
        self._newest: Gated = []

    def submit(self, fx: Effects) -> None:
        """Hand one Effects' batch to the journal thread, its gated messages behind it."""
        gated = fx.messages_when_durable
        if not fx.token:
            if gated and self._in_journal:
                self._newest.extend(gated)  # behind the batch that is being written: batches finish in order
            elif gated:
                self._send_all(gated)
            return
        reset = fx.journal_reset
        batch = JournalBatch(
            reset=None if reset is None else (reset.index, reset.term),
            hard_state=fx.hard_state,
            truncate_from=fx.truncate_from,
            entries=fx.entries,
        )
        self._in_journal += 1
        self._newest = gated
        self._journal_thread.submit(batch, partial(self._report, fx.token, gated))

    def _report(self, token: int, messages: Gated, error: BaseException | None) -> None:
        """On the journal thread."""
        self._reports.append((token, messages, error))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                log.debug("the loop closed before a journal write was reported")

    def _drain(self) -> None:
        self._woken = False  # cleared BEFORE draining: a later report wakes us again
        durable = 0
        while self._reports:
            token, messages, error = self._reports.popleft()
            self._in_journal -= 1
            if error is not None:
                self._on_durable(durable, error)
                return
            if messages:
                self._send_all(messages)
            durable = token
        if durable:
            self._on_durable(durable, None)
