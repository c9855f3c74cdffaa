"""Between the core's effects and the journal thread: what reveals something waits until that is durable. Loop thread.

Batches become durable in the order submitted, so a message that needs "everything so far" waits for the newest batch.
Many reports of the journal thread cost one wake-up of the loop, and none while nothing could follow from them: a
leader whose disk is not behind a follower's has to wait for followers anyway, and reads the reports when one answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from dqlite_py.logs import event
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
        self.reports: deque[tuple[int, Gated, BaseException | None]] = deque()  # from the journal thread
        self._woken = False
        self._patient = False
        self.in_journal = 0  # batches submitted whose report was not taken
        self._newest: Gated = []

    def submit(self, fx: Effects) -> None:
        """Hand one Effects' batch to the journal thread, its gated messages behind it."""
        gated = fx.messages_when_durable
        if not fx.token:
            if gated and self.in_journal:
                self._newest.extend(gated)  # behind the batch that is being written: batches finish in order
                self.be_patient(False)
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
        self.in_journal += 1
        self._newest = gated
        self._journal_thread.submit(batch, partial(self._report, fx.token, gated))

    def _report(self, token: int, messages: Gated, error: BaseException | None) -> None:
        """On the journal thread."""
        self.reports.append((token, messages, error))
        # AFTER the report is there: `be_patient` writes first and looks for reports then, so one of us sees the other.
        if not self._woken and (not self._patient or messages or error is not None):
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                event(log, logging.DEBUG, "the loop closed before a journal write was reported")

    def be_patient(self, patient: bool) -> None:
        """Whether reports may wait for the next `collect`; those that send messages or tell an error never do."""
        self._patient = patient
        if not patient:
            self.collect()

    def collect(self) -> None:
        """Take the reports that are there."""
        if self.reports:
            self._drain()

    def _drain(self) -> None:
        self._woken = False  # cleared BEFORE draining: a later report wakes us again
        durable = 0
        while self.reports:
            token, messages, error = self.reports.popleft()
            self.in_journal -= 1
            if error is not None:
                self._on_durable(durable, error)
                return
            if messages:
                self._send_all(messages)
            durable = token
        if durable:
            self._on_durable(durable, None)
